"""Every procedural condition by its name: what a renderer looks up and a catalog's rows name.

Exercised by `pytest tests/vapdata/conditions/test_procedural.py` and `python -m benchmarks.render`.
"""

from vapdata.conditions.camera_moves import CAMERA_MOVES
from vapdata.conditions.concepts import CONCEPTS
from vapdata.conditions.motions import MOTIONS
from vapdata.conditions.program import Category, Program, Scene
from vapdata.conditions.styles import STYLES

__all__ = ["PROGRAMS", "Category", "Program", "Scene"]

PROGRAMS: dict[str, Program] = {program.name: program for program in (*CAMERA_MOVES, *STYLES, *MOTIONS, *CONCEPTS)}
"""Category by category, each in the order of its contact sheet."""
