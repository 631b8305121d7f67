"""Report: a run directory, finished or not → numbers (`results`), tables for text (`table`), one HTML page (`page`)."""
