"""The index of a run: where every rollout is stored, and what can be filtered and searched.

run's files → `records` (lines → rows) → `writer` → SQLite → `reader` → `rows`; `run_index` opens it

It is a SQLite file in the cache directory. It holds the place of each record in the run's files,
the columns that tables are sorted and filtered by, and a full-text index (FTS5) of all
observations, thoughts and actions. Texts are read from the run when they are shown. Nothing is ever
written into the run directory.
"""
