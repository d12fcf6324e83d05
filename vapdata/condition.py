"""What a semantic condition is, and who says that a clip shows one.

A *condition* is what a reference and its target share: a concept, a style, a motion or a camera move. A *provider*
finds clips that show one (or makes them); each is a *member*, with an alignment score. Pairing is somebody else's
work and knows no condition by name. Exercised by `pytest tests/vapdata/conditions`, and by `vapdata pairs`.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol, runtime_checkable

Category = Literal["concept", "style", "motion", "camera"]
CATEGORIES: tuple[Category, ...] = ("concept", "style", "motion", "camera")

EXACT = 100.0
"""Made or drawn that way: known without looking."""
ANNOTATED = 90.0
"""A person gave this very clip the label."""
GUESSED = 70.0
"""A program gave it the label, or a rule read it from the caption; times the program's confidence where it states one."""


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one clip without decoding it: all that a provider looks at."""

    clip_id: str
    source: str
    """The plug-in that read its dataset, e.g. `bridge`, whatever the dataset is called in the catalog."""
    caption: str | None = None
    """The dataset's own text, when it speaks of this very clip."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Scores that are numbers, by filter."""
    labels: Mapping[str, tuple[tuple[str, float | None], ...]] = field(default_factory=dict)
    """Labels with their confidence (0-1; None where none is stated), by filter."""
    provider: str | None = None
    """Who made it; None for a clip that was filmed."""
    condition: str | None = None
    """A made clip: what it was made to show."""
    version: int | None = None
    """A made clip: version of what made it."""


@dataclass(frozen=True, kw_only=True)
class Member:
    """A clip that shows a condition."""

    clip_id: str
    condition: str
    category: Category
    score: float
    """How well it shows it, 0-100; see EXACT, ANNOTATED and GUESSED."""


@runtime_checkable
class Provider(Protocol):
    """Finds the members of conditions among a catalog's clips. A frozen dataclass, one file per provider."""

    name: ClassVar[str]

    def reads(self) -> tuple[str, ...]:
        """Names of the scores that it looks at; `Facts` holds no others."""
        ...

    def members(self, clips: Iterable[Facts]) -> Iterator[Member]:
        """Every membership among `clips`. A clip may show several conditions, each once."""
        ...


def condition_name(text: str) -> str:
    """`text` as the name of a condition: lower-case words with `_` between; empty when it holds no letter or digit.

    `Pushing [something] from left to right` becomes `pushing_something_from_left_to_right`.
    """
    return "_".join(re.findall(r"[^\W_]+", text.lower()))
