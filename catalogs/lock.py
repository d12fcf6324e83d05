"""One writer per catalog: `lock.json` says who, where and since when, and shows that the holder lives.

On the holder's own machine a dead process (or another process under its number) is seen at once. From elsewhere
a lock counts as dead when its file was not renewed for a minute, measured by the store's own clock. On a disk,
takers exclude one another with an advisory lock on the catalog's folder; on an object store, where nothing can,
a taker writes its name, waits, and looks whether it is still there. Exercised by `pytest tests/catalogs/test_lock.py`.
"""

import json
import os
import socket
import threading
import time
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from catalogs.files import TEMPORARY, Files
from vapdata.errors import CatalogLocked, VapdataError

LOCK = "lock.json"
BEAT_S = 10.0
"""Seconds between two signs of life."""
STALE_S = 60.0
"""Seconds without one after which a lock held on another machine counts as dead."""
SETTLE_S = 1.0
"""Object stores: how long a taker waits before it looks whether another one wrote over its name."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a catalog."""

    token: str
    """Random: tells two holders apart whatever else is equal."""
    host: str
    machine: str
    """Boot id and process-number space: two holders with one `machine` see each other's process numbers."""
    pid: int
    started: str
    """When the process started, in clock ticks since boot: tells a process from a later one of its number."""
    command: str
    since: str
    """When the lock was taken, UTC."""


def this_process(command: str) -> Holder:
    """The holder that the calling process would be."""
    since = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    pid = os.getpid()
    return Holder(
        token=uuid.uuid4().hex, host=socket.gethostname(), machine=_machine(), pid=pid, started=_started(pid) or "", command=command, since=since
    )


class Lock:
    """Holds a catalog from `take` to `release`, with a thread that renews the file."""

    def __init__(self, files: Files, command: str) -> None:
        """Prepares; `take` takes it."""
        self.files = files
        self.me = this_process(command)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="catalog-lock", daemon=True)

    def take(self) -> None:
        """Takes the lock, over a dead holder's if need be. Raises CatalogLocked while another one lives."""
        with self.files.guard() as alone:
            holder = read_holder(self.files)
            if holder is not None and alive(self.files, holder):
                raise CatalogLocked(_held(self.files, holder))
            self._sweep()
            self._write()
        if not alone:
            time.sleep(SETTLE_S)
            self.check()
        self._thread.start()

    def check(self) -> None:
        """Raises CatalogLocked when the file no longer names this holder (it was thought dead and replaced)."""
        holder = read_holder(self.files)
        if holder is None or holder.token != self.me.token:
            by = f"by {holder.command!r}, process {holder.pid} on {holder.host}" if holder else "and then given back"
            raise CatalogLocked(
                f"{self.files.address(LOCK)}: this command's hold on the catalog was taken over {by}, after it gave no sign of life for {STALE_S:.0f} s. "
                "Wait for that command to end, then type the same command again."
            )

    def release(self) -> None:
        """Gives the catalog back; another holder's lock stays."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join()
        with self.files.guard():
            holder = read_holder(self.files)
            if holder is not None and holder.token == self.me.token:
                self.files.remove(LOCK)

    def _write(self) -> None:
        text = json.dumps(asdict(self.me), indent=1).encode()
        self.files.write_bytes(LOCK, text)

    def _sweep(self) -> None:
        # Whoever holds the guard is the only one who writes lock.json, so an unfinished one is a dead taker's.
        for name in self.files.names(""):
            if name.startswith(f".{LOCK}."):
                self.files.remove(name)

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_S):
            try:
                with self.files.guard():
                    self.check()
                    self._renew()
            except CatalogLocked:
                return  # the next commit's own check tells the user
            except VapdataError:
                continue  # a store that is away for a moment: the next beat tries again

    def _renew(self) -> None:
        if self.files.local:
            os.utime(self.files.address(LOCK))
        else:
            self._write()


def read_holder(files: Files) -> Holder | None:
    """Who holds the catalog, dead or alive; None when nobody does or the file is not a lock."""
    data = files.read(LOCK)
    if data is None:
        return None
    try:
        return Holder(**json.loads(data))
    except (ValueError, TypeError):
        return None


def alive(files: Files, holder: Holder) -> bool:
    """Whether a holder still works, as the module's docstring says."""
    if holder.machine == _machine() and holder.host == socket.gethostname():
        return _started(holder.pid) == holder.started
    beat = files.modified(LOCK)
    return beat is not None and _now(files) - beat < STALE_S


def _held(files: Files, holder: Holder) -> str:
    return (
        f"the catalog {files.address('')} is in use by {holder.command!r}: process {holder.pid} on {holder.host}, since {holder.since}. "
        "One command at a time may write to a catalog: wait until that one ends, or stop it, then type the same command again."
    )


def _now(files: Files) -> float:
    """The store's clock, so that two machines' clocks need not agree."""
    probe = f".{LOCK}.clock-{uuid.uuid4().hex}{TEMPORARY}"
    files.write_bytes(probe, b"?")
    try:
        return files.modified(probe) or time.time()
    finally:
        files.remove(probe)


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id")
    space = Path("/proc/self/ns/pid")
    parts = [boot.read_text().strip() if boot.exists() else "", os.readlink(space) if space.exists() else ""]
    return "/".join(parts)


def _started(pid: int) -> str | None:
    """Start time of a running process, None when there is none; a zombie has ended."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None if Path("/proc/self").exists() else _started_without_proc(pid)
    return None if fields[0] in "ZX" else fields[19]


def _started_without_proc(pid: int) -> str | None:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return ""
    return ""

