"""How things begin and end: curves of time, 0 before and 1 after. Exercised by `pytest tests/vapdata/conditions/test_easing.py`."""

import math


def span(time: float, start: float, stop: float) -> float:
    """0 up to `start`, then straight to 1 at `stop`."""
    return min(1.0, max(0.0, (time - start) / (stop - start)))


def ease(time: float, start: float = 0.0, stop: float = 1.0) -> float:
    """As `span`, setting off and arriving gently."""
    part = span(time, start, stop)
    return part * part * (3 - 2 * part)


def overshoot(time: float, start: float, stop: float) -> float:
    """As `ease`, but a tenth too far when it arrives, and back."""
    after = max(0.0, time - stop)
    return ease(time, start, stop) + 0.1 * math.exp(-14 * after) * math.sin(40 * after)


def swing(time: float, cycles: float, phase: float = 0.0) -> float:
    """A sine from -1 to 1; with `phase` 0 it begins at 0 and rises."""
    return math.sin(2 * math.pi * (cycles * time + phase))


def hop(time: float, count: float) -> float:
    """Height of something that jumps `count` times, 0-1, touching 0 between."""
    part = (time * count) % 1.0
    return 4 * part * (1 - part)
