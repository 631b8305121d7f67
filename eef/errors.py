"""Every error a user can see.

    EefError                 one line, a `hint:`, exit status 2; never a traceback
    ├── ConfigError          a recipe or a setting: unknown key, value out of range
    ├── DataError            a file: missing, malformed (says file, line, what was expected)
    ├── EnvError             an environment cannot be made or used as asked
    │   ├── ReplayMismatch   the recorded observations do not come back (the state is skipped and counted)
    │   └── EnvDied          the process an episode was played in died or hung (the episode is played again elsewhere)
    ├── ModelError           a model, tokenizer or chat template cannot be used
    ├── StoreError           a run directory or store cannot be read or written
    ├── BudgetError          what a server may cost is spent: what it has answered is kept
    ├── MethodError          a method has nothing to work on (no expert wins, nothing to train on)
    └── WorkerError          a process that worked on a method was ended from outside (memory, `kill`)

A rollout's failure is none of these: it is a trajectory with `status="error"`.
"""

from __future__ import annotations


class EefError(Exception):
    """A mistake the user can mend: `message` says what was wrong, where and with which value; `hint` the way out."""

    exit_status = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(EefError):
    """A recipe or a setting is wrong."""


class DataError(EefError):
    """A data file is missing or malformed."""


class EnvError(EefError):
    """An environment cannot be made, or was asked for what it has not."""


class ReplayMismatch(EnvError):
    """Replaying recorded actions gave another observation than the record; `step` is the index of that action."""

    def __init__(self, message: str, *, step: int, expected: str, observed: str) -> None:
        super().__init__(
            message, hint="the environment's settings differ from those of the recording"
        )
        self.step = step
        self.expected = expected
        self.observed = observed


class EnvDied(EnvError):
    """The process in which an episode was played died, or hung and was ended."""


class ModelError(EefError):
    """A model, tokenizer or chat template cannot be used."""


class StoreError(EefError):
    """A run directory or a store cannot be read or written."""


class MethodError(EefError):
    """A method has nothing to work on."""


class BudgetError(EefError):
    """What a server may cost (requests, tokens, money) is spent; all that it answered is kept."""


class WorkerError(EefError):
    """A process that worked on a method was ended from outside."""
