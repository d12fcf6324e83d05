"""What a tier must reach is checked, and a figure below its threshold fails the run."""

import pytest

from train.miniature.__main__ import averaged, checked, table
from train.miniature.rows import TRIALS
from train.miniature.tiers import CHECKS, LANES, TABLE, TIERS, UNSEEN, Row
from vapdata.scenes import CONDITIONS

GOOD = {
    "mask attention": {"pointing": 0.6, "iou": 0.2},
    "visual prompt": {"plain": 0.9, "right": 0.9, "shuffled": 0.7, "truth": 1.0},
    "full caption, guidance 2": {"accuracy": 0.8, "psnr_db": 20.0, "clips": 104.0},
    "full neutral caption": {"accuracy": 0.1},
    "vap right reference, reference guidance 2": {"but_fade": 0.6},
    "vap shuffled reference, reference guidance 2": {"but_fade": 0.1},
    "vap shuffled reference, reference guidance 2, followed": {"but_fade": 0.5},
    "vap no reference": {"stock": 1.0},
    "large caption, guidance 2": {"accuracy": 0.7},
    "large vap right reference, reference guidance 2": {"but_fade": 0.5},
    "large vap shuffled reference, reference guidance 2": {"but_fade": 0.05},
    "large vap shuffled reference, reference guidance 2, followed": {"but_fade": 0.4},
}


def _averaged(figures: dict[str, dict[str, float]]) -> dict[str, dict[str, tuple[float, float]]]:
    return averaged([[Row(name=name, figures=values) for name, values in figures.items()]])


def test_good_figures_hold_every_check(capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(_averaged(GOOD))
    assert capsys.readouterr().out.count("holds") == len(CHECKS)


@pytest.mark.parametrize(
    ("row", "figure", "value"),
    [
        ("mask attention", "pointing", 0.54),
        ("visual prompt", "shuffled", 0.79),
        ("full caption, guidance 2", "accuracy", 0.64),
        ("full neutral caption", "accuracy", 0.36),
        ("vap shuffled reference, reference guidance 2", "but_fade", 0.21),
        ("vap shuffled reference, reference guidance 2, followed", "but_fade", 0.34),
        ("vap no reference", "stock", 0.99),
        ("large caption, guidance 2", "accuracy", 0.64),
        ("large vap right reference, reference guidance 2", "but_fade", 0.44),
        ("large vap shuffled reference, reference guidance 2, followed", "but_fade", 0.34),
    ],
)
def test_each_figure_that_falls_short_fails_the_tier(row: str, figure: str, value: float, capsys: pytest.CaptureFixture[str]) -> None:
    assert not checked(_averaged({name: {**values, **({figure: value} if name == row else {})} for name, values in GOOD.items()}))
    assert "FAILS" in capsys.readouterr().out


def test_a_part_that_was_not_asked_for_is_not_checked(capsys: pytest.CaptureFixture[str]) -> None:
    assert checked(_averaged({"mask attention": {"pointing": 0.6}}))
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_figures_of_several_seeds_are_shown_with_their_deviation() -> None:
    figures = averaged([[Row(name="a", figures={"accuracy": value, "clips": 8.0})] for value in (0.5, 0.7)])
    assert figures["a"]["accuracy"] == (pytest.approx(0.6), pytest.approx(0.1414, abs=1e-4))
    assert table(figures).splitlines()[-1] == "| a | accuracy 0.60 ± 0.14 · clips 8 |"


def test_every_part_of_the_table_is_made_and_has_a_lane() -> None:
    assert sorted(TABLE) == sorted(TRIALS) == sorted(part for lane in LANES for part in lane)
    shared = next(lane for lane in LANES if "neutral" in lane)
    assert max(map(shared.index, ("full", "ssg", "fg"))) < shared.index("neutral") < shared.index("vap"), "full captions first"


def test_unseen_conditions_are_some_of_every_category_but_not_all() -> None:
    assert {CONDITIONS[name].category for name in UNSEEN} == {"motion", "camera", "style", "concept"}
    assert not TIERS["smoke"].checked and TIERS["cpu"].checked and len(TIERS["gpu"].seeds) == 3
