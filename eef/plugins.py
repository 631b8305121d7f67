"""Plugins: environments, methods and importers by name, from this package or from another one.

A name is one of the package's own, that of an entry point of an installed package, or a reference
`module:object` to importable code. Nothing is imported before it is first used, so a plugin that
fails affects only the commands that use it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator
from functools import lru_cache
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from eef.config import unknown_name
from eef.errors import ConfigError

T = TypeVar("T")

_REFERENCE = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")


class Plugin(NamedTuple):
    """An entry point: its name, `module:object`, and the packages that provide it."""

    name: str
    reference: str
    packages: tuple[str, ...]

    def __str__(self) -> str:
        return f"`{self.reference}` of {' and '.join(self.packages)}"


class Plugins(Generic[T]):
    """All objects of one kind, such as environments.

    `thing` is the kind in words and `group` the name of its entry points. `builtin` are the
    package's own names, which `load_builtin` loads. `convert` makes the object of what an entry
    point or a reference leads to; it raises ValueError with what is wrong with that.
    """

    def __init__(
        self,
        thing: str,
        group: str,
        builtin: Collection[str],
        load_builtin: Callable[[str], T],
        convert: Callable[[Any], T],
    ) -> None:
        self.thing, self.group = thing, group
        self._builtin, self._load_builtin, self._convert = builtin, load_builtin, convert

    def names(self) -> list[str]:
        """The names of the package, then those of installed plugins."""
        return list(dict.fromkeys([*self._builtin, *(each.name for each in self.installed())]))

    def installed(self) -> list[Plugin]:
        """The plugins of other packages, by name. Imports none."""
        return _installed(self.group, tuple(sys.path))

    def load(self, name: str) -> T:
        """The object of a name or reference.

        ConfigError if the name is unknown or provided twice, or if its module cannot be imported.
        """
        if ":" in name:
            return self._load_reference(name, f"{self.thing} `{name}`", "", own=True)
        plugin = next((each for each in self.installed() if each.name == name), None)
        if plugin is None:
            if name not in self._builtin:
                raise unknown_name(self.thing, name, self.names())
            return self._load_builtin(name)
        packages = [*(["eef"] if name in self._builtin else []), *plugin.packages]
        if len(packages) > 1:
            raise ConfigError(
                f"{self.thing} {name!r} is provided by {' and by '.join(packages)}",
                hint=f"uninstall all but one of them, or write the one you mean as "
                f"`{plugin.reference}`",
            )
        about = f"{self.thing} {name!r} (`{plugin.reference}` of {packages[0]})"
        package = packages[0].rpartition(" ")[0]
        return self._load_reference(
            plugin.reference, about, f"update or uninstall it: `pip uninstall {package}`"
        )

    def problems(self) -> Iterator[tuple[Plugin, ConfigError | None]]:
        """Every installed plugin, and why it cannot be used, or None."""
        for plugin in self.installed():
            try:
                self.load(plugin.name)
                yield plugin, None
            except ConfigError as error:
                yield plugin, error

    def _load_reference(self, reference: str, about: str, hint: str, *, own: bool = False) -> T:
        if not _REFERENCE.fullmatch(reference):
            raise ConfigError(
                f"{about} is not `module:object`", hint="for example `my_package.desk:TicketDesk`"
            )
        module, _, path = reference.partition(":")
        if own and str(Path.cwd()) not in sys.path and "" not in sys.path:
            sys.path.append(str(Path.cwd()))  # last: installed packages come first
        try:
            found = import_module(module)
        except (Exception, SystemExit) as error:  # a plugin can raise anything
            missing = isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(
                f"{error.name}."
            )
            if missing and own:
                hint = "install its package, or run the command in the directory that holds it"
            elif own:
                hint = f"correct the module; `python -c 'import {module}'` shows where it fails"
            reason = " ".join(f"{type(error).__name__}: {error}".split())
            raise ConfigError(f"{about} cannot be imported: {reason}", hint=hint) from error
        try:
            target: Any = found
            for part in path.split("."):
                target = getattr(target, part)
        except AttributeError:
            names = [name for name in vars(found) if not name.startswith("_")]
            problem = unknown_name("name", path, names)
            similar = problem.hint if problem.hint.startswith("did you mean") else hint
            raise ConfigError(f"{about}: `{module}` has no `{path}`", hint=similar) from None
        try:
            return self._convert(target)
        except ValueError as error:
            names = [
                name
                for name, value in vars(found).items()
                if getattr(value, "__module__", module) == module and self._fits(value)
            ]
            known = ", ".join(f"`{module}:{name}`" for name in names)
            other = f"the module has {known}" if known else "name another object of the module"
            raise ConfigError(f"{about} {error}", hint=hint or other) from None

    def _fits(self, target: Any) -> bool:
        try:
            self._convert(target)
        except Exception:  # a module can hold anything
            return False
        return True


def is_reference(name: str) -> bool:
    """Whether a name is written `module:object`."""
    return ":" in name


@lru_cache
def _installed(group: str, path: tuple[str, ...]) -> list[Plugin]:
    """The entry points of a group; `path` is `sys.path`, where they are searched."""
    found: dict[str, list[EntryPoint]] = {}
    for entry in entry_points(group=group):
        found.setdefault(entry.name, []).append(entry)
    return [
        Plugin(name, found[name][0].value, tuple(dict.fromkeys(map(_package, found[name]))))
        for name in sorted(found)
    ]


def _package(entry: EntryPoint) -> str:
    """The name and version of the package of an entry point."""
    return f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an unnamed package"
