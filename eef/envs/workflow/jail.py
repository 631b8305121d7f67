"""The inside of the sandbox: confines its own process, then runs a workflow.

Executed as a script by `eef.envs.workflow.sandbox`, which writes and reads JSON lines:

    →  {"code": …, "root": an empty directory, "memory": bytes, "seconds": of CPU time,
        "files": bytes}
    ←  {"ready": true}, or {"refused": why the process cannot be confined},
       or {"failed": why the workflow cannot be loaded}
    →  {"problem": …, "seed": …}
    ←  {"ask": a prompt}, any number of times, each answered by {"text": …} or {"refused": …},
       then {"answer": …} or {"error": …}

The process is alone in namespaces of its own: network (without a device), mounts, processes, IPC,
and users unless root starts it. Its root directory is an empty file system in memory with Python's
standard library, read-only. It has no privileges, and a seccomp filter denies sockets, threads,
other processes, and whatever could undo this.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import random
import resource
import signal
import struct
import sys
from contextlib import suppress
from types import TracebackType
from typing import Any

FILE = "workflow.py"
LONGEST_ANSWER = 2_000  # characters; a longer answer is cut
NOBODY = 65534

_NEW_NAMESPACES = 0x00020000 | 0x08000000 | 0x20000000 | 0x40000000  # mounts, IPC, pids, network
_NEW_USERS = 0x10000000
_READ_ONLY, _NO_SUID, _NO_DEV, _NO_EXEC = 1, 2, 4, 8
_REMOUNT, _NO_ATIME, _NO_DIRATIME, _BIND, _RECURSIVE = 32, 1024, 2048, 4096, 16384
_PRIVATE, _RELATIME = 1 << 18, 1 << 21
_DETACH = 2
_DEATH_SIGNAL, _NO_NEW_PRIVILEGES, _SECCOMP = 1, 38, 22  # of prctl
_CAPABILITY_VERSION = 0x20080522
_KILL, _DENY, _ALLOW = 0x80000000, 0x00050001, 0x7FFF0000  # of seccomp; 1 is EPERM
_X32 = 0x40000000

_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41}
_CAPSET = {"x86_64": 126, "aarch64": 91}
_ARCHITECTURE = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_DENIED = {
    # socket, socketpair, connect, bind; fork, vfork, clone, clone3, execve, execveat; unshare,
    # setns, mount, umount2, pivot_root, chroot, open_tree, move_mount, fsopen, mount_setattr;
    # ptrace, process_vm_readv, process_vm_writev, pidfd_getfd; bpf, perf_event_open, userfaultfd,
    # io_uring_setup; add_key, request_key, keyctl; shmget, msgget, semget; personality,
    # open_by_handle_at; prctl, which could keep the process alive after its parent
    "x86_64": (
        *(41, 53, 42, 49, 57, 58, 56, 435, 59, 322, 272, 308, 165, 166, 155, 161, 428, 429, 430),
        *(442, 101, 310, 311, 438, 321, 298, 323, 425, 248, 249, 250, 29, 68, 64, 135, 304, 157),
    ),
    "aarch64": (
        *(198, 199, 203, 200, 220, 435, 221, 281, 97, 268, 40, 39, 41, 51, 428, 429, 430, 442),
        *(117, 270, 271, 438, 280, 241, 282, 425, 217, 218, 219, 194, 186, 190, 92, 265, 167),
    ),
}

_libc = ctypes.CDLL(None, use_errno=True)


def main() -> None:
    """Confine a child process and run the workflow in it."""
    _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0)
    settings = json.loads(sys.stdin.buffer.readline())
    try:
        _enter_namespaces()
        child = os.fork()  # the first process of its namespace, which ends with it
    except OSError as error:
        _write(sys.stdout.buffer, {"refused": str(error)})
        return
    if child:
        _, status = os.waitpid(child, 0)
        os._exit(os.waitstatus_to_exitcode(status) % 256)
    reads, writes = _take_pipes()
    try:
        _confine(settings)
    except OSError as error:
        _write(writes, {"refused": str(error)})
        os._exit(1)
    _write(writes, {"confined": True})  # what follows may be the workflow's
    serve(settings["code"], reads, writes)
    os._exit(0)


def serve(code: str, reads: Any, writes: Any) -> None:
    """Load a workflow and answer requests until the input closes."""
    variables: dict[str, Any] = {"__name__": "workflow"}
    try:
        exec(compile(code, FILE, "exec"), variables)  # noqa: S102 - the sandbox is for this
    except BaseException as error:
        _write(writes, {"failed": describe(error)})
        return
    solve = variables.get("solve")
    if not callable(solve):
        _write(writes, {"failed": "it does not define a function `solve(problem, ask)`"})
        return

    def ask(prompt: str) -> str:
        if not isinstance(prompt, str):
            raise TypeError(f"`ask` takes a string, not {type(prompt).__name__}")
        _write(writes, {"ask": prompt})
        reply = json.loads(reads.readline())
        if "refused" in reply:
            raise RuntimeError(reply["refused"])
        return str(reply["text"])

    _write(writes, {"ready": True})
    for line in reads:
        request = json.loads(line)
        random.seed(request["seed"])
        try:
            answer = {"answer": str(solve(request["problem"], ask))[:LONGEST_ANSWER]}
        except BaseException as error:
            answer = {"error": describe(error)}
        _write(writes, answer)


def describe(error: BaseException) -> str:
    """An exception in one line, with the line of the workflow that raised it."""
    lines = _lines_of(error.__traceback__)
    if isinstance(error, SyntaxError) and error.filename == FILE:
        lines, text = [error.lineno or 0], error.msg
    else:
        text = str(error)
    words = " ".join(f"{type(error).__name__}: {text}".split()).removesuffix(":")
    return words[:LONGEST_ANSWER] + (f" (line {lines[-1]})" if lines else "")


def _lines_of(trace: TracebackType | None) -> list[int]:
    lines = []
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE:
            lines.append(trace.tb_lineno)
        trace = trace.tb_next
    return lines


def _write(writes: Any, record: dict[str, Any]) -> None:
    writes.write(json.dumps(record).encode() + b"\n")
    writes.flush()


def _take_pipes() -> tuple[Any, Any]:
    """The pipes to the parent; standard input and output become empty."""
    reads, writes = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    null = os.open(os.devnull, os.O_RDWR)
    for number in (0, 1, 2):
        os.dup2(null, number)
    os.close(null)
    return reads, writes


def _enter_namespaces() -> None:
    """Leave the namespaces of the caller; without privileges, with a namespace for users."""
    if _maps_nobody():
        with suppress(OSError):  # root without privileges, as in a container
            _call("unshare", _libc.unshare(_NEW_NAMESPACES))
            return
    user, group = os.geteuid(), os.getegid()
    _call("unshare", _libc.unshare(_NEW_NAMESPACES | _NEW_USERS))
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{NOBODY} {user} 1"),
        ("gid_map", f"{NOBODY} {group} 1"),
    ):
        with open(f"/proc/self/{file}", "w", encoding="ascii") as output:
            output.write(text)


def _maps_nobody() -> bool:
    """Whether this process is root and can become `nobody`."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        ranges = [tuple(map(int, line.split())) for line in file]
    mapped = any(first <= NOBODY < first + count for first, _, count in ranges)
    return os.geteuid() == 0 and mapped


def _confine(settings: dict[str, Any]) -> None:
    machine = platform.machine()
    if machine not in _DENIED:
        raise OSError(f"no system calls are listed for the processor {machine!r}")
    _change_root(settings["root"], settings["files"], machine)
    for name, limit in (
        (resource.RLIMIT_AS, settings["memory"]),
        (resource.RLIMIT_CPU, settings["seconds"]),
        (resource.RLIMIT_FSIZE, settings["files"]),
        (resource.RLIMIT_NOFILE, 32),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        resource.setrlimit(name, (limit, limit))
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
    header = ctypes.create_string_buffer(struct.pack("=Ii", _CAPABILITY_VERSION, 0))
    none = ctypes.create_string_buffer(24)
    _call("capset", _libc.syscall(_CAPSET[machine], header, none))
    _call("prctl", _libc.prctl(_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0))  # a new user resets it
    _call("prctl", _libc.prctl(_NO_NEW_PRIVILEGES, 1, 0, 0, 0))
    resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))
    _deny_system_calls(machine)


def _change_root(root: str, size: int, machine: str) -> None:
    """Make `root` an empty file system with the standard library, and everything else vanish."""
    flags = _NO_SUID | _NO_DEV
    _mount(None, "/", None, _RECURSIVE | _PRIVATE)
    _mount("tmpfs", root, "tmpfs", flags, f"size={size},nr_inodes=256,mode=755")
    for library in _libraries():
        inside = root + library
        os.makedirs(inside)
        _mount(library, inside, None, _BIND)
        kept = os.statvfs(inside).f_flag
        locked = kept & (_NO_SUID | _NO_DEV | _NO_EXEC | _NO_ATIME | _NO_DIRATIME)
        locked |= _RELATIME if kept & 4096 else 0
        _mount(None, inside, None, _BIND | _REMOUNT | _READ_ONLY | flags | locked)
        for packages in ("site-packages", "dist-packages"):
            if os.path.isdir(f"{inside}/{packages}"):
                _mount("tmpfs", f"{inside}/{packages}", "tmpfs", flags | _READ_ONLY, "size=4k")
    os.mkdir(f"{root}/scratch")
    os.chown(f"{root}/scratch", NOBODY, NOBODY)
    os.chdir(root)
    _call("pivot_root", _libc.syscall(_PIVOT_ROOT[machine], b".", b"."))
    _call("umount2", _libc.umount2(b".", _DETACH))
    os.chdir("/scratch")


def _libraries() -> list[str]:
    """The directories of the standard library, without those inside others."""
    paths = sorted(os.path.realpath(path) for path in sys.path if os.path.isdir(path))
    found: list[str] = []
    for path in paths:
        if not any(path == other or path.startswith(f"{other}/") for other in found):
            found.append(path)
    return found


def _deny_system_calls(machine: str) -> None:
    """A filter under which the calls of `_DENIED` fail with EPERM."""
    load, equal, at_least, end = 0x20, 0x15, 0x35, 0x06
    denied = _DENIED[machine]
    program = [(load, 0, 0, 4), (equal, 1, 0, _ARCHITECTURE[machine]), (end, 0, 0, _KILL)]
    program += [(load, 0, 0, 0), (at_least, len(denied) + 1, 0, _X32)]
    for index, number in enumerate(denied):
        program.append((equal, len(denied) - index, 0, number))
    program += [(end, 0, 0, _ALLOW), (end, 0, 0, _DENY)]
    body = b"".join(struct.pack("=HBBI", *line) for line in program)
    filters = ctypes.create_string_buffer(body)
    pointer = struct.pack("@HP", len(program), ctypes.addressof(filters))
    _call("seccomp", _libc.prctl(_SECCOMP, 2, ctypes.create_string_buffer(pointer), 0, 0))


def _mount(source: str | None, target: str, kind: str | None, flags: int, data: str = "") -> None:
    texts = [None if text is None else text.encode() for text in (source, target, kind)]
    result = _libc.mount(*texts, ctypes.c_ulong(flags), data.encode())
    _call(f"mount {target}", result)


def _call(name: str, result: int) -> None:
    """Raise OSError if a system call has failed."""
    if result != 0:
        raise OSError(f"{name}: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    main()
