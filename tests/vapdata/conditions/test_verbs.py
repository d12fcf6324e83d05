"""The verb that an instruction begins with, by a rule that a table can show."""

import pytest

from vapdata.conditions.verbs import IRREGULAR, LEADS_IN, PARTICLES, VERBS, first_verb


@pytest.mark.parametrize(
    ("text", "verb"),
    [
        ("put banana on plate", "put"),
        ("Put in the sink the pot", "put"),
        ("pick up sponge and wipe plate", "pick_up"),
        ("picked up the spoon", "pick_up"),
        ("pick the spoon", "pick"),
        ("Please move the pot to the left.", "move"),
        ("the robot is moving the can", "move"),
        ("1. Opening the drawer", "open"),
        ("flipped the pot upright", "flip"),
        ("tries", None),
        ("carries the cup", "carry"),
        ("took the lid off", "take"),
        ("take out the knife", "take_out"),
        ("turn on the tap", "turn_on"),
        ("pushes lever", "push"),
        ("folding the cloth", "fold"),
        ("placing the corn", "place"),
        ("closes fridge", "close"),
        ("sweep into pile", "sweep"),
        ("close_cabinet", "close"),
        ("a red sponge lies on the table", None),
        ("banana to the pot", None),
        ("", None),
        ("...", None),
        ("the robot", None),
    ],
)
def test_the_first_verb(text: str, verb: str | None) -> None:
    assert first_verb(text) == verb


def test_the_lists_hold_together() -> None:
    assert set(IRREGULAR.values()) <= VERBS
    assert not VERBS & LEADS_IN
    assert all(word.isalpha() and word.islower() for word in VERBS | LEADS_IN | PARTICLES)
