"""How short and how long a shot may be, whoever proposes the cuts. Exercised by `pytest tests/vapdata/filters/test_cuts.py`."""

SLACK_S = 1e-6


class Lengths:
    """Goes through one video's frames in order and says which begin a clip."""

    def __init__(self, min_s: float, max_s: float | None) -> None:
        self._min_s, self._max_s = min_s, max_s
        self._start_s: float | None = None

    def begins(self, proposed: bool, time_s: float) -> bool:
        """Whether a clip begins at this frame: a cut was proposed and `min_s` have passed, or `max_s` have."""
        if self._start_s is None:
            self._start_s = time_s
        gone_s = time_s - self._start_s
        split = self._max_s is not None and gone_s > self._max_s - SLACK_S
        if not split and not (proposed and gone_s > self._min_s - SLACK_S):
            return False
        self._start_s = time_s
        return True
