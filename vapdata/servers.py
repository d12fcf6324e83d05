"""How servers elsewhere are asked: at a pace, again after what may pass, and with a key that leaves for nobody else.

Shared by plug-ins that speak to a service: made videos (conditions) and captions (captioners).
Exercised by `pytest tests/vapdata/test_servers.py`, and through the services by the tests of both.
"""

import email.utils
import ipaddress
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import tenacity

from vapdata.errors import Transient

Answer = TypeVar("Answer")


class TurnedAway(Transient):
    """The server certainly did not take the request (429, a connection refused): it costs nothing to ask again.

    `after_s` is how long the server asks to be left alone, where it says so.
    """

    def __init__(self, message: str, after_s: float | None = None) -> None:
        super().__init__(message)
        self.after_s = after_s


class Stopped(TurnedAway):
    """Nothing was asked, since everything stops."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How often and how fast a server is asked."""

    requests_per_s: float
    attempts: int
    """Requests for one thing before it is left for the next run."""
    first_wait_s: float
    """Before the second attempt; doubles from there, with as much again at random."""
    longest_wait_s: float
    """A server that asks for more (Retry-After) is left for the next run."""


class Pace:
    """At most so many requests per second, all threads together; a server that asks for a rest gets it from all."""

    def __init__(self, requests_per_s: float, sleep: Callable[[float], object]) -> None:
        self._gap = 1 / requests_per_s
        self._sleep = sleep
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def wait(self) -> None:
        """Returns when the next request may leave."""
        with self._lock:
            now = time.monotonic()
            leaves_at = max(now, self._free_at)
            self._free_at = leaves_at + self._gap
        if leaves_at > now:
            self._sleep(leaves_at - now)

    def rest(self, seconds: float) -> None:
        """No request leaves for so long."""
        with self._lock:
            self._free_at = max(self._free_at, time.monotonic() + seconds)


class Asker:
    """Asks one server, from several threads at once. Setting `stop` ends every wait and asks nothing more."""

    def __init__(self, patience: Patience) -> None:
        self.patience = patience
        self.stop = threading.Event()
        self._pace = Pace(patience.requests_per_s, self.stop.wait)

    def __call__(self, ask: Callable[[], Answer]) -> Answer:
        """The answer of `ask`, called again after a Transient. Every call goes by the pace."""
        first, longest = self.patience.first_wait_s, self.patience.longest_wait_s
        return tenacity.Retrying(
            retry=tenacity.retry_if_exception(self._may_ask_again),
            wait=tenacity.wait_exponential(multiplier=first, max=longest) + tenacity.wait_random(0, first),
            stop=tenacity.stop_after_attempt(self.patience.attempts),
            sleep=self.stop.wait,
            reraise=True,
        )(self._once, ask)

    def _once(self, ask: Callable[[], Answer]) -> Answer:
        self._pace.wait()
        if self.stop.is_set():
            raise Stopped("stopped with the others; the next run goes on")
        try:
            return ask()
        except TurnedAway as error:
            if error.after_s is not None and error.after_s <= self.patience.longest_wait_s:
                self._pace.rest(error.after_s)
            raise

    def _may_ask_again(self, error: BaseException) -> bool:
        if self.stop.is_set() or not isinstance(error, Transient):
            return False
        return not (isinstance(error, TurnedAway) and error.after_s is not None and error.after_s > self.patience.longest_wait_s)


def amount(value: Any) -> float | None:
    """`value` as a finite number from 0 on; None for anything else."""
    try:
        number = float(value) if isinstance(value, str | int | float) and not isinstance(value, bool) else None
    except ValueError:
        return None
    return number if number is not None and math.isfinite(number) and number >= 0 else None


def retry_after_s(text: str | None) -> float | None:
    """The header `Retry-After`, seconds or a date, in seconds from now; None where it says nothing."""
    if text is None:
        return None
    seconds = amount(text)
    if seconds is not None:
        return seconds
    date = email.utils.parsedate_tz(text)
    return None if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def may_carry_a_key(url: str) -> bool:
    """Whether a key may travel to `url`: over https, or to this machine itself."""
    parts = urlsplit(url)
    return bool(parts.hostname) if parts.scheme == "https" else parts.scheme == "http" and is_loopback(url)


def is_loopback(url: str) -> bool:
    """Whether `url` names this machine itself."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
