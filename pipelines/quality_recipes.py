"""Recipes that keep the better clips of a large catalog: by quantiles of the catalog itself, and by constants that others use.

What each keeps is shown before anything is encoded: `vapdata select --recipe quality-quantiles`. Any other recipe takes
a predicate like these with --where, once `vapdata backfill` has filled the scores in.
Exercised by `pytest tests/pipelines/test_quality_recipes.py`.
"""

import dataclasses

from pipelines.backbone_recipes import cogvideox_5b_i2v
from pipelines.recipe import LookStage, Recipe
from vapdata.filters.aesthetic import Aesthetic
from vapdata.filters.embedding import Embedding
from vapdata.filters.nsfw import Nsfw
from vapdata.filters.temporal_consistency import TemporalConsistency
from vapdata.filters.text_match import TextMatch
from vapdata.filters.watermark import Watermark

CLIP_STEPS = (Embedding(), Aesthetic(), TemporalConsistency(), TextMatch())
"""What one CLIP pass per frame gives."""


def quantile(score: str, share: float) -> str:
    """The value under which this share of the catalog's clips lies, as SQL."""
    return f"(select quantile_cont({score}, {share:g}) from clips_wide)"


OPENVID_QUANTILES = " and ".join(
    (
        f"aesthetic >= {quantile('aesthetic', 0.8)}",
        f"temporal_consistency between {quantile('temporal_consistency', 0.1)} and {quantile('temporal_consistency', 0.9)}",
        f"motion between {quantile('motion', 0.1)} and {quantile('motion', 0.9)}",
        f"clarity >= {quantile('clarity', 0.7)}",
    )
)
"""OpenVid-1M (Nan et al. 2024) section 3: the top fifth by aesthetics, both tails of consistency and of motion cut, the top 30 % by
clarity. How much of a tail it cuts is not said: a tenth on each side is ours. Each quantile is of the whole catalog."""

CONSTANTS = " and ".join(
    (
        "aesthetic >= 4.5",  # Open-Sora 1.2: 30 M clips of Panda-70M became 20 M
        "temporal_consistency >= 0.8",  # EasyAnimate: key frames against the first
        "motion between 0.3 and 20",  # ours, in px per half second at 320 px: what stands still, and what a cut or a shake looks like
        "watermark < 0.8",  # Data-Juicer, video_watermark_filter
        "nsfw < 0.5",  # Data-Juicer, video_nsfw_filter
        "duration_s between 2 and 60",  # NVIDIA Cosmos' curator
    )
)


def quality_quantiles() -> Recipe:
    """CogVideoX-5B-I2V from the better part of a catalog, as OpenVid-1M was cut out of Panda-50M and others.

    Quantiles are asked of all clips, so everything is scanned and scored before the first clip is encoded; the numbers
    that they came to stand in `runs`.
    """
    return _scored("quality-quantiles", OPENVID_QUANTILES, LookStage(name="score", steps=CLIP_STEPS, gpus=0.25, cpus=2.0))


def quality_constants() -> Recipe:
    """CogVideoX-5B-I2V from clips over thresholds that do not depend on the catalog: each clip is decided on alone."""
    return _scored("quality-constants", CONSTANTS, LookStage(name="score", steps=(*CLIP_STEPS, Watermark(), Nsfw()), gpus=0.25, cpus=2.0))


def _scored(name: str, where: str, stage: LookStage) -> Recipe:
    return dataclasses.replace(cogvideox_5b_i2v(), name=name, where=where, score=(stage,))
