"""Conditions that filmed videos show already. Exercised by `pytest tests/vapdata/conditions/test_mined.py`."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from vapdata.condition import ANNOTATED, CATEGORIES, EXACT, GUESSED, Facts, Member
from vapdata.conditions.labelled import Labelled
from vapdata.conditions.planted import PLANTED
from vapdata.conditions.verbs import first_verb

LABELS = (
    *PLANTED,
    Labelled(filter="ssv2_template", category="motion", score=ANNOTATED),
    Labelled(filter="epic_verb", category="motion", score=ANNOTATED),
    Labelled(filter="openvid_camera_motion", category="camera", score=GUESSED),
    Labelled(filter="camera_motion", category="camera", score=GUESSED),
)
"""Every label that names a condition; a new one is a line here."""

VAP_DATA = tuple(Labelled(filter=f"vap_{category}", category=category, score=EXACT, alignment="vap_alignment") for category in CATEGORIES)
"""What the source `vap_data` states; of its clips nothing else counts, since each was made to show one condition."""

TOLD = ("bridge", "lerobot")
"""Sources whose caption is an instruction, which begins with what is done."""


@dataclass(frozen=True, kw_only=True)
class Mined:
    """Filmed clips whose labels or captions name a condition.

    What: the same SSv2 template with other objects, the same verb in Epic-Kitchens, the same verb at the beginning of a
        BridgeData or LeRobot instruction (vapdata/conditions/verbs.py has the rule), the same camera move by OpenVid's
        labels or our own, what `synthetic` drew, and what VAP-Data states. Made videos are left to who made them.
    Reads: the scores `synthetic_camera`, `synthetic_direction` and `synthetic_cuts`, `ssv2_template`, `epic_verb`,
        `openvid_camera_motion`, `camera_motion`, `vap_concept`, `vap_style`, `vap_motion`, `vap_camera`, `vap_alignment`; captions of the source.
    Writes: members of motion and camera conditions. Score 100: drawn that way; 90: a person labelled this clip (SSv2, Epic);
        70: a program labelled it (camera moves, times its confidence), or the verb was read from the caption. Several
        labels of one kind at once: divided by their number. VAP-Data's conditions are of all four categories, with its own score.
    Default: everything above.
    Cost: about 10 s per million clips.
    Fails when: never; a clip that names nothing is no member.
    Source: ours, on the datasets' own labels.
    """

    name: ClassVar[str] = "mined"

    def reads(self) -> tuple[str, ...]:
        """The label filters, and those that they depend on."""
        return tuple(dict.fromkeys(name for rule in (*LABELS, *VAP_DATA) for name in rule.reads()))

    def members(self, clips: Iterable[Facts]) -> Iterator[Member]:
        """Every membership; of two rules that give one clip the same condition, the first counts."""
        for clip in clips:
            if clip.provider is None:
                yield from {member.condition: member for member in reversed([*_of(clip)])}.values()


def _of(clip: Facts) -> Iterator[Member]:
    for rule in VAP_DATA if clip.source == "vap_data" else LABELS:
        if rule.filter in clip.labels:
            yield from rule.members(clip)
    verb = first_verb(clip.caption) if clip.source in TOLD and clip.caption else None
    if verb:
        yield Member(clip_id=clip.clip_id, condition=verb, category="motion", score=GUESSED)
