"""Which labels and words make a clip a member of which condition, and with what score."""

import pytest

from vapdata.condition import Facts, Member, Provider, condition_name
from vapdata.conditions.mined import LABELS, Mined


def _conditions(**facts: object) -> dict[str, tuple[str, float]]:
    members = list(Mined().members([Facts(**{"clip_id": "d/a", "source": "folder", **facts})]))
    assert all(isinstance(member, Member) and member.clip_id == "d/a" for member in members)
    assert len({member.condition for member in members}) == len(members)
    return {member.condition: (member.category, member.score) for member in members}


def test_a_templates_condition_is_its_words() -> None:
    template = {"ssv2_template": (("Pushing [something] from left to right", None),)}
    assert _conditions(labels=template) == {"pushing_something_from_left_to_right": ("motion", 90.0)}
    assert condition_name(" -[]- ") == ""


def test_a_planted_camera_move_and_direction_are_exact() -> None:
    labels = {"synthetic_camera": (("pan_left", None),), "synthetic_direction": (("up", None),)}
    assert _conditions(labels=labels, values={"synthetic_cuts": 0.0}) == {"pan_left": ("camera", 100.0), "move_up": ("motion", 100.0)}


def test_a_video_of_two_shots_shows_neither_of_their_labels() -> None:
    labels = {"synthetic_camera": (("pan_left", None),), "synthetic_direction": (("up", None), ("left", None))}
    assert _conditions(labels=labels, values={"synthetic_cuts": 1.0}) == {}


def test_an_object_at_rest_shows_no_motion() -> None:
    labels = {"synthetic_camera": (("static", None),), "synthetic_direction": (("nowhere", None),)}
    assert _conditions(labels=labels) == {"static": ("camera", 100.0)}


def test_a_programs_label_counts_as_much_as_it_is_sure() -> None:
    assert _conditions(labels={"camera_motion": (("zoom_in", 0.5),)}) == {"zoom_in": ("camera", 35.0)}
    assert _conditions(labels={"openvid_camera_motion": (("Pan Left", None),)}) == {"pan_left": ("camera", 70.0)}


def test_several_camera_labels_at_once_show_none_of_them_well() -> None:
    labels = {"openvid_camera_motion": (("pan_left", None), ("zoom_in", None))}
    assert _conditions(labels=labels) == {"pan_left": ("camera", 35.0), "zoom_in": ("camera", 35.0)}


@pytest.mark.parametrize("label", ["undetermined", "Unknown", "None", "?"])
def test_a_label_that_says_nothing_is_no_condition(label: str) -> None:
    assert _conditions(labels={"openvid_camera_motion": ((label, None),)}) == {}


def test_of_two_labels_for_one_condition_the_first_rule_counts() -> None:
    labels = {"camera_motion": (("pan_left", 0.1),), "openvid_camera_motion": (("pan_left", None),)}
    assert _conditions(labels=labels) == {"pan_left": ("camera", 70.0)}


def test_an_instruction_is_read_only_where_captions_are_instructions() -> None:
    assert _conditions(source="bridge", caption="Put the pot in the sink") == {"put": ("motion", 70.0)}
    assert _conditions(source="openvid", caption="Put the pot in the sink") == {}
    assert _conditions(source="bridge") == {}


def test_epics_verb_is_a_persons_label() -> None:
    assert _conditions(source="epic", caption="open cupboard", labels={"epic_verb": (("turn-on", None),)}) == {"turn_on": ("motion", 90.0)}


def test_a_made_video_is_left_to_its_maker() -> None:
    assert _conditions(provider="procedural", condition="melt", labels={"camera_motion": (("pan_left", 1.0),)}) == {}


def test_it_asks_for_what_its_rules_read() -> None:
    assert isinstance(Mined(), Provider)
    assert {rule.filter for rule in LABELS} < set(Mined().reads())
    assert "synthetic_cuts" in Mined().reads()
