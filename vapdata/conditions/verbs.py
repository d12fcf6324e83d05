"""The verb that an instruction begins with, e.g. `put` in "Put the pot in the sink".

The rule: lower-case words; those that only lead in (please, the robot, then, "1.") are passed over; the first word that is
left must be a verb of the list in one of its forms, else there is none; a particle right behind it belongs to it
(`pick up` is not `pick`). No grammar, no model: an instruction that begins otherwise is no member.
Exercised by `pytest tests/vapdata/conditions/test_verbs.py`.
"""

import re

LEADS_IN = frozenset("please now then next and to you can could should must will the a robot arm gripper hand person it is was are be try trying just".split())
PARTICLES = frozenset("up down on off out in over open away apart aside upright".split())
PLACES = frozenset("put place move set lay keep leave".split())
"""Verbs behind which `in`, `on`, `out`, `off` and the like begin the place, not the verb: "put in the sink" is `put`."""
IRREGULAR = {
    "took": "take", "taken": "take", "put": "put", "laid": "lay", "hung": "hang", "held": "hold", "brought": "bring", "got": "get",
    "swept": "sweep", "slid": "slide", "shut": "shut", "cut": "cut", "left": "leave", "kept": "keep", "threw": "throw", "spun": "spin",
    "shook": "shake", "gave": "give", "undid": "undo", "drew": "draw", "stuck": "stick", "tore": "tear", "wound": "wind", "hit": "hit",
}  # fmt: skip
VERBS = frozenset(
    "add align arrange attach bend bring brush carry clean clear close collect cover cut dip drag draw drop dry dump empty fetch fill flip fold get "
    "give grab grasp hang hit hold insert insulate keep knock lay leave lift lock lower make mix move open pack peel pick pinch place plug point "
    "poke pour press pull push put raise reach release remove replace return rinse roll rotate rub scoop scrape screw scrub separate set shake "
    "shift shut slide spin spread sprinkle squeeze stack stick stir straighten sweep swing swipe switch take tap tear throw tie tilt topple toss "
    "touch transfer turn twist uncover undo unfold unlock unplug unscrew unstack untie unwrap wash water wind wipe wrap zip".split()
)

_WORD = re.compile(r"[a-z']+")


def first_verb(text: str) -> str | None:
    """The verb of an instruction in its plain form, with its particle (`pick_up`); None when it begins with none."""
    words = _WORD.findall(text.lower())
    at = next((place for place, word in enumerate(words) if word not in LEADS_IN), None)
    verb = _plain(words[at]) if at is not None else None
    if verb is None:
        return None
    behind = words[at + 1] if at is not None and at + 1 < len(words) else ""
    return f"{verb}_{behind}" if behind in PARTICLES and verb not in PLACES else verb


def _plain(word: str) -> str | None:
    """The plain form of a verb of the list; None for any other word."""
    if word in VERBS:
        return word
    if word in IRREGULAR:
        return IRREGULAR[word]
    for ending, instead in (("ies", "y"), ("ied", "y"), ("es", ""), ("es", "e"), ("s", ""), ("ing", ""), ("ing", "e"), ("ed", ""), ("ed", "e")):
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            found = next((form for form in (f"{stem}{instead}", stem[:-1] if stem[-1:] == stem[-2:-1] else "") if form in VERBS), None)
            if found:
                return found
    return None
