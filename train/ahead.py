"""Making things ahead of their use, in one background thread. Exercised by `pytest tests/train/test_data.py`."""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

_T = TypeVar("_T")


@dataclass(frozen=True)
class _Made(Generic[_T]):
    thing: _T


@dataclass(frozen=True)
class _Raised:
    error: BaseException


class _Ended:
    """Nothing comes any more."""


def ahead(make: Callable[[], Iterator[_T]], depth: int) -> Iterator[tuple[_T, float]]:
    """What `make` gives, each with the seconds that it was waited for; up to `depth` are made ahead by a thread (0: none).

    What is raised there is raised here, after all that was made before. Closing the generator ends the thread.
    """
    if depth < 1:
        yield from _timed(make())
        return
    ready: queue.Queue[_Made[_T] | _Raised | _Ended] = queue.Queue(maxsize=depth)
    asked_to_end = threading.Event()

    def work() -> None:
        try:
            for thing in make():
                ready.put(_Made(thing))
                if asked_to_end.is_set():
                    return
            ready.put(_Ended())
        except BaseException as error:  # noqa: BLE001 - raised again where things are taken
            ready.put(_Raised(error))

    thread = threading.Thread(target=work, name="ahead", daemon=True)
    thread.start()
    try:
        yield from _timed(_taken(ready))
    finally:
        asked_to_end.set()
        while thread.is_alive():  # it may stand before a full queue
            with contextlib.suppress(queue.Empty):
                ready.get(timeout=0.02)
        thread.join()


def _taken(ready: "queue.Queue[_Made[_T] | _Raised | _Ended]") -> Iterator[_T]:
    while True:
        found = ready.get()
        if isinstance(found, _Raised):
            raise found.error
        if isinstance(found, _Ended):
            return
        yield found.thing


def _timed(things: Iterator[_T]) -> Iterator[tuple[_T, float]]:
    while True:
        began = time.perf_counter()
        try:
            thing = next(things)
        except StopIteration:
            return
        yield thing, time.perf_counter() - began
