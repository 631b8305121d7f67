"""Locks: one writer at a time per directory, on this machine and on shared disks.

On one machine, `flock` excludes: the kernel releases it when the process ends, however it ends. On
shared disks it may exclude nothing (NFS mounted with `local_lock`, some Lustre), so every lock also
has a lease: a file that names its holder, created atomically by a hard link and touched every
`BEAT_SECONDS`. A lease is free once its holder has removed it, once its process has ended (if it is
of this machine), or once it was not touched for `STALE_SECONDS`. The lease of a process that runs
on this machine is never taken.
"""

from __future__ import annotations

import errno
import fcntl
import json
import logging
import os
import secrets
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from io import FileIO
from pathlib import Path
from typing import IO, Any

from eef.errors import LockedError, StoreError
from eef.utils.jsonl import disk_errors

_log = logging.getLogger(__name__)

BEAT_SECONDS = 10.0
"""How often a lease is touched."""

STALE_SECONDS = 60.0
"""A lease of another machine that was not touched for this long is free."""

_POLL_SECONDS = 0.5
_NO_FLOCK = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_NO_LINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The process that holds a lock.

    `machine` is its host, boot and process namespace: a process number has a meaning only there.
    `born` is when it started, in the kernel's own unit, since numbers are used again. `token` is
    drawn for each lease.
    """

    host: str
    machine: str
    process: int
    born: str
    token: str

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}"

    @property
    def is_here(self) -> bool:
        """Whether it is a process of this machine, so that `runs` is known."""
        return self.machine == this_machine()

    @property
    def runs(self) -> bool:
        """Whether a process of this machine has not ended."""
        return _birth(self.process) == self.born

    @classmethod
    def this_process(cls) -> Holder:
        return cls(
            host=socket.gethostname(),
            machine=this_machine(),
            process=os.getpid(),
            born=_birth(os.getpid()) or "",
            token=secrets.token_hex(8),
        )


class Lock:
    """A lock that this process holds until it closes it or ends.

    `on_beat` is called after each touch of the lease, in another thread.
    """

    def __init__(self, path: Path, file: FileIO, lease: Path, holder: Holder) -> None:
        self.path, self.holder = path, holder
        self.on_beat: Callable[[], None] = _do_nothing
        self._file, self._lease = file, lease
        self._beaten = _clock()
        self._taken_by: Holder | None = None
        self._busy = threading.Lock()
        _beats.add(self)

    def confirm(self) -> None:
        """Raise StoreError if another process has taken the lock.

        That happens only if this process did not respond for `STALE_SECONDS`. Call it before each
        write; the lease is read only if its last touch is too long ago.
        """
        if _clock() - self._beaten > STALE_SECONDS / 2:
            with disk_errors(self._lease):
                self._touch()
        if self._taken_by is not None:
            raise StoreError(
                f"`{self.path.parent}` was taken over by {self._taken_by} while this process did "
                "not respond",
                hint="nothing stored is lost; run the same command again when that process has "
                "ended",
            )

    def beat(self) -> None:
        """Touch the lease; a disk that does not respond is tried again later."""
        with suppress(OSError):
            self._touch()
        self.on_beat()

    def close(self) -> None:
        """Release the lock."""
        _beats.remove(self)
        with self._busy, suppress(OSError):
            if not self._file.closed and _read_holder(self._lease) == self.holder:
                self._lease.unlink()
        self._file.close()

    def __enter__(self) -> Lock:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _touch(self) -> None:
        with self._busy:
            if self._file.closed:
                return
            now = _read_holder(self._lease)
            if now is None and self._lease.parent.is_dir():  # removed by hand
                now = _offer(self._lease, self.holder)
            if now == self.holder:
                os.utime(self._lease)
                self._beaten = _clock()
            else:
                self._taken_by = now


def flock(file: IO[Any], *, wait: bool = True) -> None:
    """Lock an open file until it is closed; a disk that does not support that is not an error.

    BlockingIOError if another process has locked it and this one does not `wait`.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        if error.errno not in _NO_FLOCK:
            raise


def acquire_lock(path: Path) -> Lock:
    """Lock a file until the lock is closed or this process ends.

    If a process of another machine holds it, this waits for a sign of life, up to `STALE_SECONDS`.
    LockedError, with the holder, if another process holds the lock; StoreError if a file cannot be
    written.
    """
    with disk_errors(path):
        file = FileIO(path, "a+")
        try:
            _flock(file, path)
            lease, holder = lease_of(path), Holder.this_process()
            _take(lease, holder, path)
            try:
                _describe(file, holder)
            except BaseException:
                lease.unlink(missing_ok=True)  # this process runs on, and nobody would remove it
                raise
        except BaseException:
            file.close()
            raise
    return Lock(path, file, lease, holder)


def await_lock(path: Path) -> Lock:
    """Lock a file as soon as no other process holds it. StoreError if a file cannot be written."""
    while True:
        try:
            return acquire_lock(path)
        except LockedError:
            time.sleep(_POLL_SECONDS)


def lease_of(path: Path) -> Path:
    """The lease of a lock file."""
    return path.with_name(f"{path.name}.lease")


def current_holder(path: Path) -> tuple[Holder, float] | None:
    """(the holder of a lock, seconds since its last sign of life); None if nobody holds it.

    Reads files alone. The seconds compare the clocks of two machines if the holder is elsewhere.
    A process of this machine that has ended holds nothing.
    """
    lease = lease_of(path)
    try:
        holder = _read_holder(lease)
        age = max(0.0, time.time() - lease.stat().st_mtime)
    except OSError:
        return None
    if holder is None or (holder.is_here and not holder.runs):
        return None
    return holder, age


def this_machine() -> str:
    """Host, boot and process namespace of this process."""
    return "/".join((socket.gethostname(), _read_text("/proc/sys/kernel/random/boot_id"), _space()))


def _flock(file: FileIO, path: Path) -> None:
    try:
        flock(file, wait=False)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode(errors="replace").strip() or "another process"
        raise _is_held(path, holder) from None


def _describe(file: FileIO, holder: Holder) -> None:
    file.truncate(0)
    file.write(f"{holder}\n".encode())


def _is_held(path: Path, holder: object) -> LockedError:
    return LockedError(
        f"`{path.parent}` is being written by {holder}",
        hint="wait until it ends, or use another directory",
    )


def _take(lease: Path, holder: Holder, path: Path) -> None:
    """Create a lease, or take a stale one. StoreError if it is held.

    A stale lease is replaced under a second lease, named after the stale one's token: of several
    processes that find it stale, one replaces it, and the others then find a fresh one.
    """
    while (now := _offer(lease, holder)) != holder:
        if now is None:  # it was just removed
            continue
        if not _wait_until_stale(lease, now, path):
            raise _is_held(path, now)
        second = lease.with_name(f"{lease.name}.{now.token}")
        _take(second, holder, path)
        try:
            if _read_holder(lease) == now:
                _replace(lease, holder)
        finally:
            second.unlink(missing_ok=True)


def _wait_until_stale(lease: Path, holder: Holder, path: Path) -> bool:
    """Whether a lease is stale; False at the first sign that its holder lives.

    For a holder elsewhere, this waits until the lease was not touched for `STALE_SECONDS` by the
    disk's own clock and by this process's.
    """
    if holder.is_here:
        return not holder.runs
    try:
        touched = _touched(lease)
        rest = min(STALE_SECONDS, STALE_SECONDS - (_disk_time(lease) - touched))
    except FileNotFoundError:
        return True
    if rest > 0:
        _log.warning(
            "note: `%s` was last written by %s; waiting up to %.0f seconds for a sign of life",
            path.parent,
            holder,
            rest,
        )
    deadline = _clock() + rest
    while _clock() < deadline:
        time.sleep(_POLL_SECONDS)
        try:
            if _touched(lease) != touched:
                return False
        except FileNotFoundError:
            return True
    return True


def _offer(lease: Path, holder: Holder) -> Holder | None:
    """Create a lease unless there is one; returns whose it is, None if it was just removed."""
    own = _write(lease, holder)
    try:
        os.link(own, lease)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        with suppress(FileExistsError), FileIO(lease, "x") as file:
            file.write(own.read_bytes())
    finally:
        # NFS may report a link as failed that was made, so the lease itself decides
        own.unlink(missing_ok=True)
    return _read_holder(lease)


def _replace(lease: Path, holder: Holder) -> None:
    os.replace(_write(lease, holder), lease)


def _write(lease: Path, holder: Holder) -> Path:
    path = lease.with_name(f"{lease.name}.{secrets.token_hex(8)}.tmp")
    try:
        path.write_text(json.dumps(asdict(holder)) + "\n", encoding="utf-8")
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return path


def _read_holder(lease: Path) -> Holder | None:
    """The holder in a lease; None if there is none. Opening a file asks an NFS server again."""
    try:
        record = json.loads(lease.read_bytes())
        return Holder(**{each.name: record[each.name] for each in fields(Holder)})
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError):  # being written, on a disk without hard links
        return Holder(host="another machine", machine="", process=0, born="", token="unknown")  # noqa: S106


def _touched(lease: Path) -> float:
    with FileIO(lease) as file:  # opened, since NFS caches what `stat` reads
        return os.fstat(file.fileno()).st_mtime


def _disk_time(lease: Path) -> float:
    """The time on the clock that sets times of files, which may be a server's."""
    path = lease.with_name(f"{lease.name}.{secrets.token_hex(8)}.tmp")
    try:
        with FileIO(path, "x") as file:
            os.utime(file.fileno())
            return os.fstat(file.fileno()).st_mtime
    finally:
        path.unlink(missing_ok=True)


def _birth(process: int) -> str | None:
    """When a process of this machine started; None if there is none, or if it is a zombie."""
    try:
        stat = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        return None if stat[0] in "ZX" else stat[19]
    except (OSError, IndexError):
        if sys.platform == "linux":
            return None
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    return ""


def _space() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _read_text(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def _clock() -> float:
    """Seconds that pass while the machine sleeps, too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if sys.platform == "linux" else time.time()


def _do_nothing() -> None:
    pass


class _Beats:
    """One thread that touches the leases of this process."""

    def __init__(self) -> None:
        self._locks: set[Lock] = set()
        self._guard = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, lock: Lock) -> None:
        with self._guard:
            self._locks.add(lock)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()

    def remove(self, lock: Lock) -> None:
        with self._guard:
            self._locks.discard(lock)

    def _run(self) -> None:
        while True:
            time.sleep(BEAT_SECONDS)
            with self._guard:
                locks = list(self._locks)
            for lock in locks:
                lock.beat()


_beats = _Beats()
