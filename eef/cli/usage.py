"""Mistakes on the command line, in the form of every other error: one line and a hint."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from pydantic import ValidationError

from eef.config import describe_problems, most_similar, unknown_name
from eef.errors import ConfigError, EefError

_CONTINUES = "`eef run DIR` continues a run"
_HINTS = {
    "resume": _CONTINUES,
    "continue": _CONTINUES,
    "check-env": "`eef env check` checks an environment",
    "serve-env": "`eef env serve` serves an environment",
    "make-base": "`eef model build` builds a student",
    "merge": "`eef model merge` merges adapters",
    "push": "`eef model push` uploads a checkpoint",
    "gold": "`eef env prepare` makes the gold paths",
    "index": "`eef env prepare` builds the index",
    "explore": "`eef stage` executes one stage",
    "select": "`eef stage` executes one stage",
    "train": "`eef stage` executes one stage",
    "evaluate": "`eef stage` executes one stage",
    "results": "`eef report` writes the results",
}


def unknown_command(name: str, known: Sequence[str]) -> EefError:
    """The error for a command that does not exist."""
    error = unknown_name("command", name, known)
    return ConfigError(error.message, hint=_HINTS.get(name, error.hint))


def usage_error(error: Any, command: str) -> EefError:
    """The error of typer in the form of `eef`; `command` is what was invoked if it has no context.

    Raises the error itself if it is the help of a group that was invoked without a command.
    """
    kind = type(error).__name__
    if kind == "NoArgsIsHelpError":
        raise error
    path = " ".join(("eef", *error.ctx.command_path.split()[1:])) if error.ctx else command
    hint = f"`{path} --help` lists its arguments and options"
    if kind == "NoSuchOption":
        similar = most_similar(error.option_name, list(error.possibilities or ()))
        hint = f"did you mean `{similar}`?" if similar else hint
        return ConfigError(f"unknown option `{error.option_name}`", hint=hint)
    parameter = getattr(error, "param", None)
    if parameter is None:
        return ConfigError(_plain(error.format_message()), hint=hint)
    name = parameter.opts[0] if parameter.opts[0].startswith("-") else parameter.metavar
    if kind == "MissingParameter":
        return ConfigError(f"`{name}` is missing", hint=hint)
    if isinstance(error.__cause__, ValidationError):
        problems = error.__cause__.errors(include_url=False)
        return ConfigError(f"`{name}` is {_choices(describe_problems(problems))}", hint=hint)
    return ConfigError(f"`{name}`: {_plain(error.message)}", hint=hint)


def _plain(message: str) -> str:
    """A sentence of typer as the message of an error.

    >>> _plain("Got unexpected extra argument(s) (b)"), _plain("Option '--set' requires a value.")
    ('unexpected argument (b)', "option '--set' requires a value")
    """
    message = re.sub(r"^Got unexpected extra arguments?(\(s\))?", "Unexpected argument", message)
    return f"{message[:1].lower()}{message[1:]}".rstrip(".")


def _choices(problem: str) -> str:
    """The problem of a value that is none of some choices.

    >>> _choices("'x': 'x' is not one of 'a', 'b', 'c'.")
    "'x'; expected 'a', 'b' or 'c'"
    """
    found = re.fullmatch(r"(.*): .* is not one of (.*), (.*?)\.?", problem)
    return f"{found[1]}; expected {found[2]} or {found[3]}" if found else problem
