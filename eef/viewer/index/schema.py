"""The tables of an index, and the values in its table `meta`."""

from __future__ import annotations

import sqlite3

SCHEMA_VERSION = 6

_SCHEMA = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE files (
    path TEXT PRIMARY KEY, number INTEGER, head TEXT, size INTEGER, lines INTEGER);
CREATE TABLE trajectories (
    id INTEGER PRIMARY KEY, name TEXT UNIQUE, task TEXT, method TEXT, round INTEGER, phase TEXT,
    role TEXT, author TEXT, status TEXT, success INTEGER, reward REAL, steps INTEGER,
    origin TEXT, t INTEGER, error_kind TEXT, replayable INTEGER, own_round INTEGER,
    file TEXT, offset INTEGER, size INTEGER);
CREATE INDEX by_task ON trajectories (task);
CREATE INDEX by_stage ON trajectories (method, round, phase, success);
CREATE TABLE examples (
    id INTEGER PRIMARY KEY, kind TEXT, name TEXT, task TEXT, trajectory TEXT, method TEXT,
    round INTEGER, state INTEGER, group_id TEXT, file TEXT, offset INTEGER, size INTEGER);
CREATE INDEX example_by_task ON examples (task);
CREATE INDEX example_by_name ON examples (name);
CREATE INDEX example_by_trajectory ON examples (trajectory);
CREATE TABLE tasks (
    task TEXT PRIMARY KEY, position INTEGER, split TEXT, instruction TEXT, rollouts INTEGER,
    students INTEGER, wins INTEGER, rate REAL, expert INTEGER, expert_reward REAL,
    recovery INTEGER, errors INTEGER, overflows INTEGER, unverified INTEGER, never INTEGER,
    newly INTEGER, only_by TEXT);
CREATE INDEX by_position ON tasks (position);
CREATE TABLE problems (file TEXT, line INTEGER, message TEXT);
CREATE VIRTUAL TABLE texts USING fts5(
    instruction, observation, thought, action, content='', detail=column);
INSERT INTO texts(texts, rank) VALUES('hashsize', 2097152);
"""


def read_meta(connection: sqlite3.Connection, key: str) -> str | None:
    """A value of the table `meta`; None if there is none."""
    try:
        found = connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    except sqlite3.OperationalError:  # no table
        return None
    return found[0] if found else None


def create_tables(connection: sqlite3.Connection) -> None:
    """Create the tables, empty; those that exist are dropped."""
    names = ("meta", "files", "trajectories", "examples", "tasks", "problems", "texts")
    for name in names:
        connection.execute(f"DROP TABLE IF EXISTS {name}")
    for statement in _SCHEMA.split(";\n"):
        connection.execute(statement)
