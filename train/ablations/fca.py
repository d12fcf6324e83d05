"""Frame-wise Conditioning Adaptation's ablations at 20,000 steps, FVD.

Exercised by `pytest tests/train/test_ablate.py`.
"""

from train.ablations.table import Row, Table

FVD = "FVD (lower is better)"

TABLE = Table(
    title="Frame-wise Conditioning Adaptation (2025), ablations: CogVideoX-2B, 20,000 steps",
    columns=(FVD,),
    rows=(
        Row(name="LoRA", settings=("fca.ftc=none", "fca.ft=lora"), paper={FVD: 354.9}),
        Row(name="FCA without frame-wise text", settings=("fca.ftc=none",), paper={FVD: 152.3}),
        Row(
            name="uniform",
            settings=("fca.ftc=uniform", "fca.frame_mask=false"),
            paper={FVD: 157.2},
            note="the paper does not say whether it is masked; its mask comes last, so not here",
        ),
        Row(name="uniform + refinement", settings=("fca.ftc=uniform_refine", "fca.frame_mask=false"), paper={FVD: 155.2}, note="the refinement's form is ours"),
        Row(name="layer-wise", settings=("fca.frame_mask=false",), paper={FVD: 117.6}),
        Row(name="layer-wise + mask", paper={FVD: 94.1}, note="FCA as it is"),
        Row(name="layer-wise + mask, without pre-normalisation", settings=("fca.prenorm=none",), paper={FVD: 105.4}),
        Row(name="ControlNet, every frame", settings=("fca.init_inject=controlnet_dup",), paper={FVD: "worse, shown by pictures"}),
        Row(name="ControlNet, first frame", settings=("fca.init_inject=controlnet_zero",), paper={FVD: "worse, shown by pictures"}),
        Row(name="scale 1", settings=("fca.scale_init=1.0",), paper={FVD: "fails"}, note="the paper says that a scale that is not small fails"),
    ),
)
