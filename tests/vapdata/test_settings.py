"""`--set step.field=value` gives a value of the field's own type, or says what is wrong."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from vapdata.errors import CallError
from vapdata.settings import parse, typed


@dataclass(frozen=True, kw_only=True)
class Step:
    fps: float = 2.0
    count: int = 3
    loud: bool = False
    captions: str | None = None
    short: Literal["reject", "loop"] = "reject"
    size: tuple[int, int] = (96, 160)
    pairs: tuple[tuple[str, str], ...] = ()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("step.fps=4", 4.0),
        ("step.count=7", 7),
        ("step.loud=yes", True),
        ("step.captions=a=b, c.csv", "a=b, c.csv"),
        ("step.captions=none", None),
        ("step.short=loop", "loop"),
        ("step.size=48, 80", (48, 80)),
    ],
)
def test_a_text_becomes_the_type_of_its_field(text: str, value: Any) -> None:
    field = text.partition("=")[0].partition(".")[2]
    for steps in ({"step": Step()}, {"step": Step}):
        assert typed(parse(text), steps) == ("step", field, value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("fps=4", "type --set step.field=value"),
        ("step.fps", "type --set step.field=value"),
        ("stpe.fps=4", "did you mean 'step'"),
        ("step.cuont=4", "did you mean 'count'"),
        ("step.nothing=4", "Known: fps, count"),
        ("step.fps=fast", "got 'fast', wanted a number"),
        ("step.count=1.5", "wanted a whole number"),
        ("step.loud=maybe", "wanted true or false"),
        ("step.short=lopo", "wanted one of reject, loop"),
        ("step.size=1", "wanted values with commas between"),
        ("step.pairs=a", "--recipe file.py:function"),
    ],
)
def test_a_wrong_setting_is_told_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(CallError, match=words.replace("(", r"\(")):
        typed(parse(text), {"step": Step()})
