"""What `vapdata verify` finds: one broken promise, as a line that says what to type. Exercised by `pytest tests/catalogs/test_verify.py`."""

from dataclasses import dataclass

SHOWN = 20
"""Findings of one kind that are listed; the rest are counted."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One promise that is broken."""

    check: str
    what: str
    where: str
    got: str
    wanted: str
    remedy: str
    """What to type."""

    def __str__(self) -> str:
        """The finding as one line."""
        return f"{self.where}: {self.what}: got {self.got}, wanted {self.wanted}. {self.remedy}"
