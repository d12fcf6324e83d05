"""Concepts and styles that filmed clips share, found by clustering. Exercised by `pytest tests/vapdata/conditions/test_clustered.py`."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from vapdata.condition import GUESSED, Category, Facts, Member, condition_name
from vapdata.conditions.clusters import Distinctive, centred, distinctive, kmeans, union
from vapdata.errors import CallError

STYLE_WORDS = frozenset(
    "2d 3d abstract animated animation anime black-and-white blueprint cartoon cel-shaded cgi claymation clay comic drawing drawn engraving glitch grayscale greyscale "
    "grainy hand-drawn infrared lego line-art low-poly manga monochrome mosaic neon night-vision noir oil origami paint painted painting papercraft pastel pencil pixel "
    "pixelated pixel-art psychedelic puppet render "
    "rendered retro sepia silhouette sketch sketched stop-motion stylized surreal thermal vector vhs vintage watercolor watercolour".split()
)
"""A cluster that is named after one of these is a style; any other is a concept."""


@dataclass(frozen=True, kw_only=True)
class Clustered:
    """Filmed clips that look alike and are captioned alike, under what their captions call them.

    What: k-means over the clips' mean CLIP embeddings, without what all clips share; a cluster's name is the most distinctive
        words of its captions, of those that enough of them have. A cluster of which no word is distinctive has no name and no
        members. Two clusters of one name are one condition. Made videos are left to who made them.
    Reads: the product `embedding-...` (vapdata backfill embedding), and every caption of the clips.
    Writes: members of concept and style conditions, prefixed `looks_`. Score 70 times the share of the name's words that the
        clip's captions have: looks and words must both say it. A clip with none of them is no member.
    Default: a cluster for 32 clips; up to two words that half of the cluster's captions have, at 3 deviations or more.
    Cost: seconds for 100,000 clips; 3 KB of memory per clip.
    Fails when: no clip has an embedding, or several models made some (CallError).
    Source: ours; the words by Monroe, Colaresi and Quinn (2008), "Fightin' Words".
    """

    name: ClassVar[str] = "clustered"
    embedding: str = ""
    """Name of the product; empty where the catalog has one only."""
    clusters: int | None = None
    """None: one for `clips_each` clips."""
    clips_each: int = 32
    words: int = 2
    """In a name, at most."""
    least_z: float = 3.0
    least_share: float = 0.5
    """Of a cluster's captions that have a word of its name."""
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.clusters is not None and self.clusters < 1) or self.clips_each < 1 or self.words < 1 or not 0 < self.least_share <= 1:
            raise CallError(
                f"clustered: got clusters={self.clusters} clips_each={self.clips_each} words={self.words} least_share={self.least_share:g}; "
                "wanted 1 or more, 1 or more, 1 or more, over 0 to 1"
            )

    def reads(self) -> tuple[str, ...]:
        """No scores."""
        return ()

    def members(self, clips: Iterable[Facts]) -> Iterator[Member]:
        """None: what a clip shows cannot be said without the others. See `members_of`."""
        return iter(())

    def members_of(self, clips: Sequence[str], vectors: Float32[np.ndarray, "n d"], captions: Sequence[Sequence[str]]) -> Iterator[Member]:
        """Every membership. `clips` in order, with an embedding and all captions of each."""
        if not clips:
            return
        count = self.clusters or max(1, len(clips) // self.clips_each)
        labels = kmeans(centred(vectors), count, self.seed).tolist()
        said = [union(texts) for texts in captions]
        names = {label: self._named(words) for label, words in distinctive(said, labels).items()}
        for clip, label, words in zip(clips, labels, said, strict=True):
            named = names[label]
            shown = sum(word in words for word in named)
            if shown:
                yield Member(clip_id=clip, condition=f"looks_{condition_name(' '.join(named))}", category=_category(named), score=GUESSED * shown / len(named))

    def _named(self, ranked: Sequence[Distinctive]) -> tuple[str, ...]:
        """The words of a cluster's name, in the order of the alphabet, so that equal sets are equal names; none where no word will do."""
        fit = [each.word for each in ranked if each.z >= self.least_z and each.share >= self.least_share]
        return tuple(sorted(fit[: self.words]))


def _category(words: Sequence[str]) -> Category:
    return "style" if STYLE_WORDS & set(words) else "concept"
