"""Viewer: every trajectory of a run in a browser, from a server on this machine or as files.

run directory → index (SQLite, in the cache directory) → views → templates → server or files
"""
