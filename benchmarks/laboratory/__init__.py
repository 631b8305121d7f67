"""The laboratory: an environment of known structure and a student that trains in microseconds.

Methods, grids, budgets and statistics are those of `eef`. `docs/when.md` has the results.
"""
