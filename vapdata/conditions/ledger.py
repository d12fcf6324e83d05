"""The journal of what was ordered from a template service, so that no kill makes us pay twice or overspend.

One JSON object a line, written before and after each order, and on disk before the next step is taken. An order is
`sent` before the request leaves, `accepted` with the service's job id, then `kept` once the video lies here, or `failed`;
`refused` gives its money back. Money counts from `sent` on: an order that nobody answered may have been taken. Secrets
are never written.
Exercised by `pytest tests/vapdata/conditions/test_template.py`.
"""

import fcntl
import json
import math
import os
import threading
import time
from dataclasses import asdict, dataclass, fields, replace
from typing import IO, Any, Literal

from vapdata.errors import CatalogDamaged, CatalogLocked

_UNITS = 10**9
"""Money is summed in whole billionths: sums of binary fractions drift."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """What is known of one order."""

    key: str
    state: Literal["sent", "accepted", "kept", "failed", "refused"]
    price: float
    """The most that it may cost."""
    sent_at: float
    """When it was first sent, seconds since the epoch."""
    condition: str = ""
    job: str | None = None
    cost: float | None = None
    """What the service charges, where it says so."""
    license: str | None = None
    terms: str | None = None
    why: str | None = None

    @property
    def charged(self) -> float:
        """What it counts against the budget: the stated cost, else its price, until it is refused."""
        return 0.0 if self.state == "refused" else self.price if self.cost is None else self.cost


class Ledger:
    """A service's journal in `folder`, held by one process at a time. Thread-safe.

    Raises CatalogLocked while another process holds it, CatalogDamaged for a line that is none. A half-written last line
    is what a kill leaves: what it would have said had not happened yet, or is asked again under the same key.
    """

    def __init__(self, folder: str, service: str, budget: float) -> None:
        os.makedirs(folder, exist_ok=True)
        self.folder, self.budget = folder, budget
        self.path = os.path.join(folder, f"{service}.jsonl")
        self._entries: dict[str, Entry] = {}
        self._spent = 0
        self._lock = threading.Lock()
        self._file: IO[bytes] = open(self.path, "a+b")  # noqa: SIM115 - held until close()
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise CatalogLocked(f"{self.path}: another process is ordering from {service}. Wait until it is done.") from error
        try:
            self._read()
        except BaseException:
            self._file.close()
            raise

    def close(self) -> None:
        """Lets another process have it."""
        self._file.close()

    def entry(self, key: str) -> Entry | None:
        """What is known of an order."""
        return self._entries.get(key)

    def video(self, key: str) -> str:
        """Where an order's video is kept."""
        return os.path.join(self.folder, f"{key}.mp4")

    @property
    def spent(self) -> float:
        """What all orders so far cost at most, in the service's currency."""
        return self._spent / _UNITS

    def reserve(self, key: str, condition: str, price: float) -> bool:
        """Notes that the order is about to be sent; False, and nothing noted, when it could take us over the budget."""
        with self._lock:
            if math.isfinite(self.budget) and self._spent + _units(price) > _units(self.budget):
                return False
            self._write(Entry(key=key, state="sent", price=price, sent_at=time.time(), condition=condition))
            return True

    def note(self, key: str, **changes: Any) -> Entry:
        """Changes what is known of an order that was reserved; on disk when it returns."""
        with self._lock:
            entry = replace(self._entries[key], **changes)
            if entry != self._entries[key]:
                self._write(entry)
            return entry

    def _write(self, entry: Entry) -> None:
        said = {name: value for name, value in asdict(entry).items() if value is not None}
        self._file.write(json.dumps(said, sort_keys=True).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._enter(entry)

    def _enter(self, entry: Entry) -> None:
        before = self._entries.get(entry.key)
        self._spent += _units(entry.charged) - (_units(before.charged) if before is not None else 0)
        self._entries[entry.key] = entry

    def _read(self) -> None:
        self._file.seek(0)
        data = self._file.read()
        whole = data[: data.rfind(b"\n") + 1]
        names = {each.name for each in fields(Entry)}
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                entry = Entry(**{name: value for name, value in json.loads(line).items() if name in names})
            except (ValueError, TypeError, AttributeError) as error:
                raise CatalogDamaged(f"{self.path} line {number} is no order: {error}. It says what was paid for: restore the file from a copy.") from error
            self._enter(entry)
        self._file.truncate(len(whole))


def _units(amount: float) -> int:
    return round(amount * _UNITS)
