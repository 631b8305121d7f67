"""The laboratory: an environment of known structure and a student that trains in 2 ms.

Methods, grids, budgets and statistics are those of `eef`. `docs/when.md` has the results.
"""
