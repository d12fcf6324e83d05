"""Focal Guidance's ablations on Wan2.1-I2V-14B, three of VBench-2.0's scores.

Exercised by `pytest tests/train/test_ablate.py`.
"""

from train.ablations.table import Row, Table

ATTRIBUTE, MOTION, INTERACTION = "dynamic attribute (higher is better)", "human motion (higher is better)", "interaction (higher is better)"
NO_FSG = ("fg.fsg_text=false", "fg.fsg_latent=false")
NO_AC = ("fg.ac=false",)
ZERO_SHOT = ("fg.mode=zero_shot",)


def _scores(attribute: float, motion: float, interaction: float) -> dict[str, float | str]:
    return {ATTRIBUTE: attribute, MOTION: motion, INTERACTION: interaction}


TABLE = Table(
    title="Focal Guidance (arXiv 2601.07287), ablations: Wan2.1-I2V-14B, post-trained on 12,000 videos",
    columns=(ATTRIBUTE, MOTION, INTERACTION),
    rows=(
        Row(name="base", settings=(*NO_FSG, *NO_AC, *ZERO_SHOT), paper=_scores(0.3512, 0.6920, 0.4880), note="the backbone as it is; nothing learns"),
        Row(name="post-training alone", settings=(*NO_FSG, *NO_AC), paper=_scores(0.3628, 0.6980, 0.5140)),
        Row(name="zero-shot", settings=ZERO_SHOT, paper=_scores(0.3512, 0.7020, 0.5220), note="nothing learns; HunyuanVideo has no such row, its projections begin at zero"),
        Row(name="attention cache", settings=NO_FSG, paper=_scores(0.3827, 0.7160, 0.5280)),
        Row(name="semantic guidance", settings=NO_AC, paper=_scores(0.3804, 0.7280, 0.5240), note="binding and injection"),
        Row(name="full", paper=_scores(0.3860, 0.7500, 0.5320), note="Focal Guidance as it is"),
    ),
)
