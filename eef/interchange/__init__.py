"""Interchange: what others wrote becomes our records, what we select becomes other trainers' files.

    rows     a file → its rows, one at a time, each with the place it stands in
    formats  a row → `Imported`, whatever published format it has; `conversations` and `react` read them
    verify   `Imported` and an environment → a trajectory that was replayed, or one that is text only
    reading  files → trajectories, with a report of all that was met
    lessons  training examples → messages and token ids with their weights
    trainers lessons → the files of another trainer
"""
