"""SSG-DiT's ablations, CLIP-T and VBench's overall consistency.

A row that reads no masks also sees the clips without a caption, which have none: compare rows on a catalog whose clips all have one.
Exercised by `pytest tests/train/test_ablate.py`.
"""

from train.ablations.table import Row, Table

CLIP_T = "CLIP-T (higher is better)"
OVERALL = "overall consistency (higher is better)"
UNREAD = "the paper's numbers of this row are not in the text that we have"

TABLE = Table(
    title="SSG-DiT (arXiv 2508.17062), ablations: Wan2.1-T2V, 33.5 thousand clips of OpenVidHD, VBench",
    columns=(CLIP_T, OVERALL),
    rows=(
        Row(
            name="Wan2.1",
            settings=None,
            paper={CLIP_T: 30.28, OVERALL: 22.58},
            note="the backbone alone: its loss is the column `before` of every row, for step 0 is the frozen model",
        ),
        Row(
            name="w/o SSG",
            settings=("ssg.c_image=false",),
            paper={CLIP_T: 27.41, OVERALL: 18.9},
            note="adapters that read the caption alone; the paper's row is worse than Wan2.1, so it is not the backbone alone",
        ),
        Row(name="w/o attention mask", settings=("ssg.mask_source=mlp",), note=UNREAD),
        Row(name="w/o MLP mask", settings=("ssg.mask_source=attn",), note=UNREAD),
        Row(name="SSG-DiT", paper={OVERALL: 26.31}, note="as it is; CLIP-T is not in the text that we have, the columns of its main table are named by order"),
        Row(name="w/o blur", settings=("ssg.mask_source=none",), note="ours: the first frame itself"),
        Row(name="random mask", settings=("ssg.mask_source=random",), note="ours: a mask that says nothing"),
    ),
)
