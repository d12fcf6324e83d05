"""How large a run of the miniature benchmark is, and what it must reach.

Exercised by `pytest tests/train/miniature/test_tiers.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

TABLE = ("masks", "full", "neutral", "vap", "ablation", "tokens", "fca", "ssg", "fg")
"""Parts of the table in its order; `rows.TRIALS` makes them."""
LANES = (("full", "ssg", "fg", "neutral", "vap", "ablation"), ("masks", "fca"), ("tokens",))
"""Parts of the table that share a catalog, in the order in which they change it: captions that say what happens, then neutral ones."""
UNSEEN = ("slide_left", "bounce", "pan_right", "roll", "cool", "dissolve")
"""Conditions whose clips no reference method is trained on. The backbone knows them by their words."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table: a name and its figures. Shares are 0 to 1."""

    name: str
    figures: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Tier:
    """One size."""

    name: str
    says: str
    """What it is for, in the help."""
    clips: int
    """Videos of the catalog, 26 conditions in turn; a quarter of them shows held-out subjects."""
    judged: int
    """Clips made for each row, at most."""
    scenes: int
    """Scenes of two that masks are judged on."""
    steps: int | None
    """Training steps of each method; None for its recipe's own."""
    denoising: int
    seeds: tuple[int, ...]
    ablation: bool = False
    """Whether Video-As-Prompt's structure is varied as in its paper."""
    large: int = 0
    """Videos of the catalog with four times as many tokens; 0 for none."""
    at_once: int = 1
    """Processes side by side, of LANES and seeds."""
    on_ray: bool = True
    """Whether catalogs are built on Ray, which takes longer to start than a small one to build."""
    checked: bool
    """Whether the thresholds hold for it; a smoke test reaches none."""


TIERS: Mapping[str, Tier] = {
    each.name: each
    for each in (
        Tier(name="smoke", says="smoke, does it run", clips=104, judged=8, scenes=20, steps=6, denoising=4, seeds=(0,), at_once=2, on_ray=False, checked=False),
        Tier(name="cpu", says="cpu, half an hour of one core for VAP", clips=2080, judged=104, scenes=200, steps=None, denoising=20, seeds=(0,), checked=True),
        Tier(
            name="gpu",
            says="gpu, three seeds, VAP's variants and more tokens with --device cuda",
            clips=5200,
            judged=260,
            scenes=1000,
            steps=3_000,
            denoising=30,
            seeds=(0, 1, 2),
            ablation=True,
            large=2600,
            at_once=9,
            checked=True,
        ),
    )
}
"""Every part of `smoke` and `cpu` has been run, of `gpu` all but `fca`, `ssg` and `fg`, in several commands: benchmarks/RESULTS.md."""


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that must hold: `value(figures)` is at least `least`. A figure is named `row/column`."""

    says: str
    least: float
    value: Callable[[Mapping[str, float]], float]


CHECKS = (
    Check(says="attention masks point at the named object", least=0.55, value=lambda f: f["mask attention/pointing"]),
    Check(says="visual prompt, right mask minus shuffled", least=0.12, value=lambda f: f["visual prompt/right"] - f["visual prompt/shuffled"]),
    Check(says="backbone with guidance 2 on never-trained subjects", least=0.65, value=lambda f: f["full caption, guidance 2/accuracy"]),
    Check(says="caption minus neutral caption", least=0.45, value=lambda f: f["full caption, guidance 2/accuracy"] - f["full neutral caption/accuracy"]),
    Check(
        says="VAP, right minus shuffled reference, without fades",
        least=0.40,
        value=lambda f: f["vap right reference, reference guidance 2/but_fade"] - f["vap shuffled reference, reference guidance 2/but_fade"],
    ),
    Check(says="VAP, a shuffled reference is followed", least=0.35, value=lambda f: f["vap shuffled reference, reference guidance 2, followed/but_fade"]),
    Check(says="more tokens, backbone with guidance 2 on never-trained subjects", least=0.65, value=lambda f: f["large caption, guidance 2/accuracy"]),
    Check(
        says="more tokens, VAP, right minus shuffled reference, without fades",
        least=0.40,
        value=lambda f: f["large vap right reference, reference guidance 2/but_fade"] - f["large vap shuffled reference, reference guidance 2/but_fade"],
    ),
    Check(says="more tokens, VAP, a shuffled reference is followed", least=0.35, value=lambda f: f["large vap shuffled reference, reference guidance 2, followed/but_fade"]),
    Check(says="without references a VAP expert leaves the stock output, bit for bit", least=1.0, value=lambda f: f["vap no reference/stock"]),
)
"""Thresholds of the tiers that are checked, on means over their seeds."""
