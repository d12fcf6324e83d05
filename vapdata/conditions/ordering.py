"""Orders in, videos out: several at once, at a pace, within a budget, and each paid once whatever happens.

What was accepted before is polled again, what was sent and never answered is sent again under the same key while the
service promises that this gives the same job, and never otherwise. Exercised by
`pytest tests/vapdata/conditions/test_template.py`.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from vapdata.conditions.ledger import Entry, Ledger
from vapdata.conditions.service import Accepted, Order, Service
from vapdata.errors import CallError, ClipError, Transient
from vapdata.servers import Asker, Patience, Stopped, TurnedAway

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Manners:
    """How a service is treated, and how long it is waited for."""

    price: float
    """The most that one order may cost; each counts as much until the service states its cost."""
    parallel: int = 4
    requests_per_s: float = 2.0
    attempts: int = 6
    """Requests for one step of one order before it is left for the next run."""
    first_wait_s: float = 1.0
    """Before the second attempt; doubles from there, with as much again at random."""
    longest_wait_s: float = 120.0
    """A service that asks for more (Retry-After) is left for the next run."""
    poll_s: float = 5.0
    patience_s: float = 1800.0
    """For one job; it is asked about again on the next run."""


@dataclass(frozen=True, kw_only=True)
class Delivered:
    """A video that is here."""

    path: str
    entry: Entry


Outcome = Delivered | ClipError | None
"""None: left for another run, since the budget does not allow it or another order's trouble stopped them all."""


class Ordering:
    """A service with its ledger. One instance per process; `fulfil` may be called again and again."""

    def __init__(self, service: Service, ledger: Ledger, manners: Manners) -> None:
        self.service, self.ledger, self.manners = service, ledger, manners
        told = ("requests_per_s", "attempts", "first_wait_s", "longest_wait_s")
        self._patiently = Asker(Patience(**{name: getattr(manners, name) for name in told}))
        self._stop = self._patiently.stop

    def fulfil(self, orders: Sequence[Order]) -> Iterator[Outcome]:
        """The outcome of each order, in their order; equal orders are placed once. Stops all of them at the first CallError, and raises it."""
        distinct = {order.key: order for order in orders}
        with ThreadPoolExecutor(self.manners.parallel, thread_name_prefix=f"order-{self.service.name}") as pool:
            futures = {key: pool.submit(self._guarded, order) for key, order in distinct.items()}
            try:
                for order in orders:
                    yield futures[order.key].result()
            finally:
                self._stop.set()  # after the last answer nobody waits any more; after an error nobody shall
        self._stop.clear()

    def _guarded(self, order: Order) -> Outcome:
        try:
            return self._one(order)
        except Stopped:
            return None
        except ClipError as error:
            return error
        except BaseException:
            self._stop.set()
            raise

    def _one(self, order: Order) -> Outcome:
        entry = self.ledger.entry(order.key)
        path = self.ledger.video(order.key)
        if entry is not None and entry.state == "kept" and os.path.isfile(path):
            return Delivered(path=path, entry=entry)
        if entry is not None and entry.state == "failed":
            raise ClipError(f"{_told(order)}: the service failed on it: {entry.why}. It is not ordered again; raise the condition's `version` to do so")
        if entry is None or entry.state == "refused":
            if not self.ledger.reserve(order.key, order.condition, self.manners.price):
                return None
            entry = self._submit(order, resumed=False)
        elif entry.state == "sent":
            entry = self._submit(order, resumed=True)
        return self._collect(order, entry, path)

    def _submit(self, order: Order, *, resumed: bool) -> Entry:
        """Sends an order that is noted as sent; `resumed` when an earlier run did, and got no answer."""
        unclear = resumed
        if unclear:
            self._refuse_repetition(order)

        def ask() -> Accepted:
            nonlocal unclear
            if unclear:
                self._refuse_repetition(order)
            try:
                return self.service.submit(order)
            except (TurnedAway, CallError):
                raise
            except Transient:
                unclear = True
                raise

        try:
            accepted = self._patiently(ask)
        except (CallError, ClipError) as error:
            if not unclear:  # certainly not taken: its money is free again; of one that may have been taken it stays reserved
                self.ledger.note(order.key, state="refused", why=str(error))
            raise
        return self._within_price(self.ledger.note(order.key, state="accepted", job=accepted.job, cost=accepted.cost))

    def _refuse_repetition(self, order: Order) -> None:
        entry = self.ledger.entry(order.key)
        age_s = time.time() - entry.sent_at if entry is not None else 0.0
        if age_s >= self.service.repeat_within_s:
            raise ClipError(
                f"{_told(order)}: it was sent {age_s:.0f} s ago and never answered, and {self.service.name} promises for {self.service.repeat_within_s:.0f} s "
                f"not to charge the same key twice. It counts as paid and is not sent again; raise the condition's `version` to order it anew"
            )

    def _collect(self, order: Order, entry: Entry, path: str) -> Delivered:
        """Polls and downloads what was accepted."""
        job = entry.job or ""
        deadline = time.monotonic() + self.manners.patience_s
        while True:
            status = self._patiently(lambda: self.service.poll(job))
            told = {name: value for name in ("cost", "license", "terms") if (value := getattr(status, name)) is not None}
            if status.state == "failed":
                self._within_price(self.ledger.note(order.key, state="failed", why=status.message or "no reason given", **told))
                raise ClipError(f"{_told(order)}: the service failed on it: {status.message or 'no reason given'}")
            if status.state == "done" and status.url:
                break
            if time.monotonic() >= deadline:
                raise Transient(f"{_told(order)}: job {job} has not ended within {self.manners.patience_s:.0f} s. It is paid for; the next run asks again")
            self._stop.wait(self.manners.poll_s)
        self.ledger.note(order.key, **told)
        url = status.url
        self._patiently(lambda: self.service.download(url, path))
        entry = self.ledger.note(order.key, state="kept")
        return Delivered(path=path, entry=self._within_price(entry))

    def _within_price(self, entry: Entry) -> Entry:
        if entry.cost is not None and entry.cost > entry.price + 1e-9:
            raise CallError(
                f"{self.ledger.path}: job {entry.job} cost {entry.cost:g}, and the configuration says that none costs more than {entry.price:g}. "
                f"Nothing more is ordered, since the budget could not be kept. Set price: {entry.cost:g} in the configuration"
            )
        return entry


def _told(order: Order) -> str:
    return f"condition {order.condition} (order {order.key})"
