"""Checks that methods' configurations share. Exercised by `pytest tests/train/test_vap.py tests/train/test_fca.py tests/train/test_ssg.py tests/train/test_fg.py`."""

from collections.abc import Sequence

from vapdata.errors import CallError
from vapdata.registry import did_you_mean


def one_of(method: str, field: str, value: str, known: Sequence[str]) -> None:
    """Raises CallError, with what to type, when `value` of a method's field is none of `known`."""
    if value not in known:
        raise CallError(f"{method}: {field} is one of {', '.join(known)}; got {value!r}{did_you_mean(value, known)}. Type e.g. --set {method}.{field}={known[0]}")
