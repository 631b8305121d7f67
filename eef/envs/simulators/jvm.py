"""Jvm: a Java process that runs a simulator's JAR, spoken to through py4j. Shared by all environments on Java.

The front finds Java and the package (`find_java`, `find_jar`) before anything is played; the process itself lives in a
worker (`eef.envs.simulators.worker`), one to each.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from eef.errors import ConfigError, EnvDied, EnvError

OLDEST_JAVA = 11
INSTALL_JAVA = "install a Java runtime: `apt-get install default-jre-headless` (Debian, Ubuntu), or set `JAVA_HOME`"
INSTALL_HOTSPOT = (
    "install OpenJDK's own JVM (HotSpot), or set `env.deterministic = false` to do without"
)
_SECONDS_TO_END = 1.0
OUT_OF_MEMORY = 3
"""Exit status of a JVM that was told to end when its heap is full."""

CONSTANT_HASH = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
)
"""Every object gets the same identity hash, so that sets of objects keep their order from one JVM to the next."""


def find_java() -> str:
    """Path of the Java that is used: that of `JAVA_HOME`, else `java` on the path.

    ConfigError where there is none, it cannot be run, or it is older than Java 11.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if java is None:
        where = f" in `JAVA_HOME` ({home})" if home else ""
        raise ConfigError(
            f"there is no `java`{where}, which this environment runs on", hint=INSTALL_JAVA
        )
    version = java_version(java)
    if version < OLDEST_JAVA:
        raise ConfigError(
            f"`{java}` is Java {version}, needed is {OLDEST_JAVA} or newer", hint=INSTALL_JAVA
        )
    return java


@lru_cache
def java_version(java: str) -> int:
    """The main version of a Java (1.8 is 8). ConfigError where it cannot be run or does not say."""
    try:
        status, said = _ask_version(java)
    except OSError as error:
        raise ConfigError(f"`{java}` cannot be run: {error}", hint=INSTALL_JAVA) from error
    match = re.search(r'version "(?:1\.)?(\d+)', said)
    if status != 0 or match is None:
        raise ConfigError(
            f"`{java} -version` does not say which Java it is: {said or 'nothing'}",
            hint=INSTALL_JAVA,
        )
    return int(match[1])


def heeds_constant_hash(java: str) -> bool:
    """Whether a Java knows the flags of `CONSTANT_HASH` (HotSpot does); a JVM that runs is probed for what they do."""
    status, _ = _ask_version(java, *CONSTANT_HASH[1:])
    return status == 0


def _ask_version(java: str, *options: str) -> tuple[int, str]:
    """Exit status and words of a Java asked for its version: also why it does not start with some options."""
    told = subprocess.run([java, *options, "-version"], capture_output=True, text=True, check=False)
    return told.returncode, " ".join((told.stderr + told.stdout).split())[:200]


def find_jar(package: str, version: str, jar: str) -> str:
    """Path of the JAR in an installed package, which must have exactly this version (ConfigError)."""
    repair_tail = f"`pip install {package}=={version}`"
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise ConfigError(f"the package `{package}` is not installed", hint=repair_tail) from None
    if found.version != version:
        raise ConfigError(
            f"`{package}` {found.version} is installed, this environment is made for {version}",
            hint=f"{repair_tail}; other versions answer otherwise, and their numbers cannot be compared",
        )
    return str(found.locate_file(jar))


@dataclass(frozen=True, slots=True)
class JvmSettings:
    """How a JVM is started. `memory`: its heap in MB at most; `patience`: seconds until a call counts as hung."""

    java: str
    jar: str
    memory: int
    patience: float
    flags: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        """All that the JVM is told."""
        return [
            f"-Xmx{self.memory}m",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            *self.flags,
        ]


def _why_not(settings: JvmSettings, error: Exception) -> str:
    """What a Java that did not start says: py4j reads its first line alone, as a number. Else the error."""
    if isinstance(error, OSError):
        return str(error)
    status, said = _ask_version(settings.java, *settings.options)
    return said if status != 0 and said else str(error)


class Jvm:
    """A running JVM; `view` leads to its classes.

    Its port is on loopback and asks for a token. It ends by itself when the process that started it does.
    """

    def __init__(self, settings: JvmSettings) -> None:
        from py4j.java_gateway import GatewayParameters, JavaGateway, launch_gateway

        folder = str(Path(settings.jar).parent)
        try:
            port, token, self._process = launch_gateway(
                classpath=settings.jar,
                javaopts=settings.options,
                java_path=settings.java,
                cwd=folder,
                die_on_exit=True,
                enable_auth=True,
                return_proc=True,
                create_new_process_group=True,
            )
        except (OSError, ValueError) as error:
            raise EnvError(
                f"`{settings.java} {' '.join(settings.options)}` does not start: {_why_not(settings, error)}",
                hint="lower `env.memory`?",
            ) from error
        self._gateway = JavaGateway(
            gateway_parameters=GatewayParameters(
                port=port, auth_token=token, auto_field=True, read_timeout=settings.patience
            )
        )

    @property
    def view(self) -> Any:
        return self._gateway.jvm

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def has_constant_hash(self) -> bool:
        """Whether objects have the same identity hash, as `CONSTANT_HASH` asks for (a JVM may not heed it)."""
        with self.asked():
            system, thing = self.view.java.lang.System, self.view.java.lang.Object
            return len({int(system.identityHashCode(thing())) for _ in range(3)}) == 1

    @contextmanager
    def asked(self) -> Iterator[None]:
        """Calls into the JVM: EnvError for an exception in the simulator, EnvDied where there is no answer."""
        from py4j.protocol import Py4JError, Py4JJavaError

        try:
            yield
        except Py4JJavaError as error:
            raise EnvError(f"the simulator broke: {str(error.java_exception)[:500]}") from error
        except (Py4JError, OSError) as error:
            raise EnvDied(f"the simulator's JVM {self._how_it_ended()}") from error

    def _how_it_ended(self) -> str:
        try:
            status = self._process.wait(_SECONDS_TO_END)
        except subprocess.TimeoutExpired:
            return "did not answer in time"
        return (
            "ran out of memory (raise `env.memory`)"
            if status == OUT_OF_MEMORY
            else f"ended with status {status}"
        )

    def is_alive(self) -> bool:
        return self._process.poll() is None

    def end(self) -> None:
        """End the process, whatever it is doing, and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._gateway.close()
