"""Servers are asked at a pace, again after what may pass and no longer than that; keys travel over https only."""

import email.utils
import time

import pytest

from vapdata.errors import ClipError, Transient
from vapdata.servers import Asker, Pace, Patience, Stopped, TurnedAway, amount, is_loopback, may_carry_a_key, retry_after_s

PATIENCE = Patience(requests_per_s=1e6, attempts=4, first_wait_s=0.001, longest_wait_s=0.05)


class _Flaky:
    """Raises each of `troubles` once, then answers."""

    def __init__(self, *troubles: Exception) -> None:
        self.troubles, self.calls = list(troubles), 0

    def __call__(self) -> str:
        self.calls += 1
        if self.troubles:
            raise self.troubles.pop(0)
        return "well"


def test_the_pace_makes_each_wait_for_its_own_place() -> None:
    slept: list[float] = []
    began = time.monotonic()
    pace = Pace(10.0, slept.append)
    for _ in range(6):
        pace.wait()
    assert len(slept) == 5
    assert 0.5 - (time.monotonic() - began) <= slept[-1] <= 0.5
    pace.rest(7.0)
    pace.wait()
    assert 7.0 - (time.monotonic() - began) <= slept[-1] <= 7.0


def test_what_may_pass_is_asked_again() -> None:
    flaky = _Flaky(Transient("a"), TurnedAway("b"), TurnedAway("c", after_s=0.01))
    assert Asker(PATIENCE)(flaky) == "well"
    assert flaky.calls == 4


@pytest.mark.parametrize(
    ("troubles", "calls"),
    [([Transient("x")] * 9, 4), ([ClipError("x")], 1), ([TurnedAway("x", after_s=3600.0)], 1), ([ValueError("x")], 1)],
)
def test_what_will_not_pass_soon_is_raised(troubles: list[Exception], calls: int) -> None:
    flaky = _Flaky(*troubles)
    with pytest.raises(type(troubles[0]), match="x"):
        Asker(PATIENCE)(flaky)
    assert flaky.calls == calls


def test_nothing_is_asked_after_the_stop() -> None:
    asker, flaky = Asker(PATIENCE), _Flaky()
    asker.stop.set()
    with pytest.raises(Stopped, match="the next run goes on"):
        asker(flaky)
    assert flaky.calls == 0


def test_retry_after_is_seconds_or_a_date() -> None:
    assert retry_after_s("2.5") == 2.5
    assert retry_after_s(None) is None
    assert retry_after_s("soon") is None
    assert retry_after_s(email.utils.formatdate(time.time() + 100)) == pytest.approx(100, abs=3)
    assert retry_after_s(email.utils.formatdate(time.time() - 100)) == 0.0


@pytest.mark.parametrize(("value", "number"), [("3", 3.0), (0, 0.0), (-1, None), (True, None), ("nan", None), (float("inf"), None), ("x", None), (None, None), ([], None)])
def test_an_amount_is_a_number_from_zero_on(value: object, number: float | None) -> None:
    assert amount(value) == number


@pytest.mark.parametrize(
    ("url", "may"),
    [
        ("https://api.example.com/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://127.0.0.1:8000", True),
        ("http://[::1]:8000", True),
        ("http://api.example.com/v1", False),
        ("http://10.0.0.3:8000/v1", False),
        ("http://localhost.example.com", False),
        ("https://", False),
        ("ftp://localhost", False),
        ("", False),
    ],
)
def test_a_key_travels_over_https_or_stays_here(url: str, may: bool) -> None:
    assert may_carry_a_key(url) is may
    assert not is_loopback("https://api.example.com/v1")
