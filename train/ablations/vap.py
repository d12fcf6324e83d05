"""Video-As-Prompt's ablations, CLIP score and alignment with the reference's semantics.

Exercised by `pytest tests/train/test_ablate.py`.
"""

from train.ablations.table import Row, Table

CLIP = "CLIP score (higher is better)"
ALIGNMENT = "alignment (higher is better)"

TABLE = Table(
    title="Video-As-Prompt (ICLR 2026), ablations of its structure: CogVideoX-5B-I2V, VAP-Data",
    columns=(CLIP, ALIGNMENT),
    rows=(
        Row(name="single branch, LoRA", settings=("vap.fusion=single_branch_lora",), paper={CLIP: 23.12, ALIGNMENT: 69.08}),
        Row(name="one-way cross attention", settings=("vap.fusion=ref_to_target",), paper={CLIP: 22.96, ALIGNMENT: 67.16}),
        Row(name="residual addition", settings=("vap.fusion=residual",), paper={CLIP: 22.37, ALIGNMENT: 55.99}, note="the paper gives no form of it; ours: train/vap.py"),
        Row(name="shared RoPE", settings=("vap.rope=shared",), paper={CLIP: 23.17, ALIGNMENT: 68.98}),
        Row(name="time and width bias", settings=("vap.rope=time_and_width_bias",), paper={CLIP: 23.45, ALIGNMENT: 69.05}),
        Row(name="Video-As-Prompt", paper={CLIP: 24.13, ALIGNMENT: 70.44}, note="as it is"),
    ),
)
