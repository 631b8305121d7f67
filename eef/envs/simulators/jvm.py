"""A Java process that runs a simulator's JAR, called through py4j.

The environment finds Java and the JAR first (`find_java`, `find_jar`). Each worker
(`eef.envs.simulators.worker`) then runs one JVM.
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
INSTALL_JAVA = (
    "install a Java runtime: `apt-get install default-jre-headless` (Debian, Ubuntu), "
    "or set `JAVA_HOME`"
)
INSTALL_HOTSPOT = (
    "install OpenJDK's own JVM (HotSpot), or set `env.deterministic = false` to allow any JVM"
)
_SECONDS_TO_END = 1.0
OUT_OF_MEMORY = 3
"""Exit status of a JVM that ended because its heap was full."""

CONSTANT_HASH = (
    "-XX:+IgnoreUnrecognizedVMOptions",
    "-XX:+UnlockExperimentalVMOptions",
    "-XX:hashCode=2",
)
"""Give every object the same identity hash: sets of objects keep their order across JVMs."""


def find_java() -> str:
    """Path of `java`: the one in `JAVA_HOME`, otherwise the one on the path.

    Raises ConfigError if there is none, it cannot be run, or it is older than Java 11.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin") if home else None)
    if java is None:
        where = f" in `JAVA_HOME` ({home})" if home else ""
        raise ConfigError(f"no `java` found{where}; this environment needs it", hint=INSTALL_JAVA)
    version = java_version(java)
    if version < OLDEST_JAVA:
        raise ConfigError(
            f"`{java}` is Java {version}; expected {OLDEST_JAVA} or newer", hint=INSTALL_JAVA
        )
    return java


@lru_cache
def java_version(java: str) -> int:
    """The major version of a Java (8 for 1.8).

    Raises ConfigError if it cannot be run or does not report its version.
    """
    try:
        status, output = _run_version(java)
    except OSError as error:
        raise ConfigError(f"cannot run `{java}`: {error}", hint=INSTALL_JAVA) from error
    match = re.search(r'version "(?:1\.)?(\d+)', output)
    if status != 0 or match is None:
        raise ConfigError(
            f"`{java} -version` does not report a version: {output or 'no output'}",
            hint=INSTALL_JAVA,
        )
    return int(match[1])


def accepts_constant_hash(java: str) -> bool:
    """Whether a Java accepts the flags of `CONSTANT_HASH`, as HotSpot does.

    `Jvm.has_constant_hash` checks their effect in a running JVM.
    """
    status, _ = _run_version(java, *CONSTANT_HASH[1:])
    return status == 0


def _run_version(java: str, *options: str) -> tuple[int, str]:
    """Exit status and output of `java -version`, which also shows why some options are refused."""
    done = subprocess.run([java, *options, "-version"], capture_output=True, text=True, check=False)
    return done.returncode, " ".join((done.stderr + done.stdout).split())[:200]


def find_jar(package: str, version: str, jar: str) -> str:
    """Path of the JAR in an installed package.

    Raises ConfigError unless exactly this version of the package is installed.
    """
    install = f"`pip install {package}=={version}`"
    try:
        found = distribution(package)
    except PackageNotFoundError:
        raise ConfigError(f"the package `{package}` is not installed", hint=install) from None
    if found.version != version:
        raise ConfigError(
            f"`{package}` {found.version} is installed; expected {version}",
            hint=f"{install}; scores of different versions are not comparable",
        )
    return str(found.locate_file(jar))


@dataclass(frozen=True, slots=True)
class JvmSettings:
    """How a JVM is started.

    `memory` is its maximum heap in MB, `timeout` the seconds after which a call counts as hung.
    """

    java: str
    jar: str
    memory: int
    timeout: float
    flags: tuple[str, ...] = ()

    @property
    def options(self) -> list[str]:
        """The JVM's command-line options."""
        return [
            f"-Xmx{self.memory}m",
            "-XX:+UseSerialGC",
            "-XX:+ExitOnOutOfMemoryError",
            *self.flags,
        ]


def _reason(settings: JvmSettings, error: Exception) -> str:
    """Why a JVM did not start.

    py4j only reads its first line of output, and as a number, so Java is run once more.
    """
    if isinstance(error, OSError):
        return str(error)
    status, output = _run_version(settings.java, *settings.options)
    return output if status != 0 and output else str(error)


class Jvm:
    """A running JVM; `view` gives access to its classes.

    Its port is on loopback and requires a token. It ends when the process that started it does.
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
                f"`{settings.java} {' '.join(settings.options)}` does not start: "
                f"{_reason(settings, error)}",
                hint="lower `env.memory`",
            ) from error
        self._gateway = JavaGateway(
            gateway_parameters=GatewayParameters(
                port=port, auth_token=token, auto_field=True, read_timeout=settings.timeout
            )
        )

    @property
    def view(self) -> Any:
        return self._gateway.jvm

    @property
    def pid(self) -> int:
        return int(self._process.pid)

    def has_constant_hash(self) -> bool:
        """Whether objects have the same identity hash (some JVMs ignore `CONSTANT_HASH`)."""
        with self.translate_errors():
            system, thing = self.view.java.lang.System, self.view.java.lang.Object
            return len({int(system.identityHashCode(thing())) for _ in range(3)}) == 1

    @contextmanager
    def translate_errors(self) -> Iterator[None]:
        """Context for calls into the JVM.

        Raises EnvError for an exception in the simulator, EnvDied if the JVM does not answer.
        """
        from py4j.protocol import Py4JError, Py4JJavaError

        try:
            yield
        except Py4JJavaError as error:
            raise EnvError(f"the simulator failed: {str(error.java_exception)[:500]}") from error
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
        """Kill the process and wait until it is gone."""
        self._process.kill()
        self._process.wait()
        self._process.stdin.close()
        self._gateway.close()
