"""A label that a clip has is a condition that it shows. Exercised by `pytest tests/vapdata/conditions/test_mined.py`."""

from collections.abc import Iterator
from dataclasses import dataclass

from vapdata.condition import GUESSED, Category, Facts, Member, condition_name

SAYS_NOTHING = frozenset({"", "none", "nan", "null", "unknown", "undetermined", "other"})
"""Labels that are no condition, as `condition_name` writes them."""


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Clips with one label of one filter, under that label's name.

    Several labels at once (a pan that is also a zoom) are another condition than each alone: the score is divided
    by their number, which puts it below the usual threshold.
    """

    filter: str
    category: Category
    score: float = GUESSED
    """With full confidence; see vapdata/condition.py for what the numbers mean."""
    prefix: str = ""
    """Goes before the label, where the label alone would say too little."""
    ignores: frozenset[str] = frozenset()
    """Labels that are no condition here, besides those that say nothing."""
    zero: str | None = None
    """A score that has to be 0: the clip's number of cuts, where a label speaks of one shot only."""
    alignment: str | None = None
    """A score, 0-100, that stands in place of `score` where the clip has it."""

    def reads(self) -> tuple[str, ...]:
        """The filter, the score that has to be 0, and the alignment."""
        return (self.filter, *(name for name in (self.zero, self.alignment) if name))

    def members(self, clip: Facts) -> Iterator[Member]:
        """One membership per label."""
        if self.zero and clip.values.get(self.zero, 0.0):
            return
        labels = {condition_name(label): confidence for label, confidence in clip.labels.get(self.filter, ())}
        named = {name: confidence for name, confidence in labels.items() if name not in SAYS_NOTHING and name not in self.ignores}
        for name, confidence in named.items():
            score = clip.values.get(self.alignment or "", self.score) * (1.0 if confidence is None else min(max(confidence, 0.0), 1.0)) / len(labels)
            yield Member(clip_id=clip.clip_id, condition=f"{self.prefix}{name}", category=self.category, score=score)
