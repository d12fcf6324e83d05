"""What the sources `synthetic` and `miniature` drew: camera moves, motions, styles and concepts, known exactly.

A video of two shots has the labels of both, and none of them is true of all of it: it is no member, and neither
are the clips that its cut makes of it, since a dataset's labels go to whole videos only.
Exercised by `pytest tests/vapdata/conditions/test_mined.py`.
"""

from vapdata.condition import CATEGORIES, EXACT
from vapdata.conditions.labelled import Labelled

PLANTED = (
    Labelled(filter="synthetic_camera", category="camera", score=EXACT, zero="synthetic_cuts"),
    Labelled(filter="synthetic_direction", category="motion", score=EXACT, zero="synthetic_cuts", prefix="move_", ignores=frozenset({"nowhere"})),
    *(Labelled(filter=f"miniature_{category}", category=category, score=EXACT) for category in CATEGORIES),
)
"""Camera moves (`static` included, as in OpenVid's labels), and where the object goes; one at rest shows no motion."""
