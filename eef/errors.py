"""Every error a user can see.

    EefError                 printed as one line and a `hint:`, without a traceback; exit status 2
    ├── ConfigError          a recipe or setting: unknown name, wrong value, missing package
    │   └── ClusterError     a Ray cluster: none there, another version, or too few resources
    ├── DataError            a data file: missing or malformed (names file, line and problem)
    ├── EnvError             an environment: cannot be created, or does not support a request
    │   ├── ReplayMismatch   replayed actions lead to other observations (the state is skipped)
    │   └── EnvDied          the process of an episode died or hung (the episode is played again)
    ├── ModelError           a model, tokenizer or chat template: cannot be used
    ├── StoreError           a run directory or store: cannot be read or written
    │   └── LockedError      another process writes there
    ├── BudgetError          the budget of an API is spent (its responses are kept)
    ├── MethodError          a method has nothing to explore or to train on
    └── WorkerError          a process that executed a method was killed

A failed rollout is not an exception: it is a trajectory with `status="error"`.
"""

from __future__ import annotations


class EefError(Exception):
    """An error that the user can fix.

    `message` is what is wrong, where, and with which value. `hint` is how to fix it, or empty.
    """

    exit_status = 2

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class ConfigError(EefError):
    """A recipe or setting is wrong, or a package is missing."""


class ClusterError(ConfigError):
    """There is no such Ray cluster, or it has other versions or too few resources."""


class DataError(EefError):
    """A data file is missing or malformed."""


class EnvError(EefError):
    """An environment cannot be created, or does not support a request."""


class ReplayMismatch(EnvError):
    """Replaying recorded actions led to another observation than the recorded one.

    `step` is the index of the first observation that differs.
    """

    def __init__(self, message: str, *, step: int, expected: str, observed: str) -> None:
        super().__init__(message, hint="use the environment settings of the recording")
        self.step = step
        self.expected = expected
        self.observed = observed


class EnvDied(EnvError):
    """The process of an episode died, or hung and was killed."""


class ModelError(EefError):
    """A model, tokenizer or chat template cannot be used."""


class StoreError(EefError):
    """A run directory or a store cannot be read or written."""


class LockedError(StoreError):
    """Another process writes there."""


class MethodError(EefError):
    """A method has nothing to explore or to train on."""


class BudgetError(EefError):
    """The budget of an API (requests, tokens, money) is spent; its responses are kept."""


class WorkerError(EefError):
    """A process that executed a method was killed."""


def describe_error(error: Exception) -> str:
    """An exception in one line."""
    return f"{type(error).__name__}: {error}".strip().removesuffix(":")
