"""Named training runs, as functions: what a paper or a release trained with, and small ones for a tiny backbone.

`python -m train.vap --recipe NAME` takes one; without it a method's first recipe that fits the backbone is taken.
Exercised by `pytest tests/train/test_recipes.py`.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Literal

from train.blocks import Blocks
from train.checkpoint import Checkpoints
from train.evaluate import Evaluation
from train.fca import Fca
from train.fg import Fg
from train.full import Full
from train.optimizer import Optimizer
from train.run import Run
from train.ssg import Ssg
from train.vap import Vap
from vapdata import backbones
from vapdata.errors import CallError
from vapdata.registry import did_you_mean


def vap_tiny(backbone: str) -> Run:
    """Video-As-Prompt on a tiny backbone: at the papers' 1e-5 a tiny model's loss does not move, so its own rate and warm-up."""
    return Run(
        name="vap-tiny",
        method=Vap(),
        backbone=backbone,
        steps=600,
        global_batch=8,
        micro_batch=8,
        optimizer=Optimizer(lr=1e-3, warmup=20, schedule="cosine"),
        evaluation=Evaluation(every=100, samples=8, timesteps=8),
        checkpoints=Checkpoints(every=100),
    )


def vap_miniature(backbone: str) -> Run:
    """Video-As-Prompt on the miniature world beside a tiny backbone that was trained on it: 1,800 steps of 32 pairs, in float32 everywhere.

    So small a model keeps a GPU waiting for Python, and casts to bfloat16 are more calls for it to wait for.
    """
    return replace(
        vap_tiny(backbone),
        name="vap-miniature",
        compute="f32",
        steps=1_800,
        global_batch=32,
        micro_batch=32,
        optimizer=Optimizer(lr=1.5e-3, warmup=30, schedule="cosine", weight_decay=1e-2),
        evaluation=Evaluation(every=0, samples=32, timesteps=8, batch=32),
    )


def _miniature(tiny: Run) -> Run:
    """A method's tiny run, on the miniature world: 600 steps of 32 clips."""
    name = tiny.name.replace("-tiny", "-miniature")
    return replace(tiny, name=name, compute="f32", steps=600, global_batch=32, micro_batch=32, evaluation=Evaluation(every=0, samples=32, timesteps=8, batch=32))


def fca_miniature(backbone: str) -> Run:
    """Frame-wise Conditioning Adaptation on the miniature world: 600 steps of 32 clips."""
    return _miniature(fca_tiny(backbone))


def ssg_miniature(backbone: str) -> Run:
    """SSG-DiT on the miniature world: 600 steps of 32 clips; the picture is 32 pixels wide, so the encoder reads it as it is, and the blur is wider than 2 %."""
    run = _miniature(ssg_tiny(backbone))
    return replace(run, method=Ssg(image_encoder="conv", conv_side=32, conv_patch=4, conv_width=64, conv_depth=2, blur=0.15))


def fg_miniature(backbone: str) -> Run:
    """Focal Guidance's post-training on the miniature world: 600 steps of 32 clips."""
    return _miniature(fg_tiny(backbone))


def vap_paper(backbone: str) -> Run:
    """Video-As-Prompt as the paper states it (ICLR 2026): 1e-5, about 20,000 steps, 48 GPUs with one sample each; AdamW as released."""
    return _vap("vap-paper", backbone, steps=20_000, lr=1e-5)


def vap_released(backbone: str) -> Run:
    """Video-As-Prompt as the released scripts train it (bytedance/Video-As-Prompt): 5e-5, 60,000 steps."""
    return _vap("vap-released", backbone, steps=60_000, lr=5e-5)


def full_tiny(backbone: str) -> Run:
    """A tiny backbone from random weights: 2,000 steps of 32 samples."""
    return Run(
        name="full-tiny",
        method=Full(),
        backbone=backbone,
        steps=2_000,
        global_batch=32,
        micro_batch=32,
        optimizer=Optimizer(lr=1e-3, warmup=50, schedule="cosine", weight_decay=1e-2),
        evaluation=Evaluation(every=500, samples=8, timesteps=8),
        checkpoints=Checkpoints(every=500),
    )


def full_miniature(backbone: str) -> Run:
    """A tiny backbone on the miniature world, as those that ship were trained but for what their cards say."""
    return replace(
        full_tiny(backbone),
        name="full-miniature",
        steps=1_500 if backbones.backbone(backbone).family == "cogvideox" else 1_200,
        global_batch=32 if backbones.backbone(backbone).family == "cogvideox" else 16,
        optimizer=Optimizer(lr=2e-3, warmup=50, schedule="cosine", weight_decay=1e-2),
        evaluation=Evaluation(every=500, samples=32, timesteps=8),
    )


def full_finetune(backbone: str) -> Run:
    """Full fine-tuning at 1e-5, 32 samples a step: our choice, near what finetrainers' examples use."""
    return Run(
        name="full-finetune",
        method=Full(),
        backbone=backbone,
        steps=5_000,
        global_batch=32,
        optimizer=Optimizer(lr=1e-5, warmup=200),
        blocks=Blocks(keep="nothing"),
    )


def fca_tiny(backbone: str) -> Run:
    """Frame-wise Conditioning Adaptation on a tiny backbone, for clips of 9 frames (3 latent ones), with narrow modules."""
    return Run(
        name="fca-tiny",
        method=Fca(ftc_width=64, latent_frames=3),
        backbone=backbone,
        steps=600,
        global_batch=8,
        micro_batch=8,
        optimizer=Optimizer(lr=1e-3, warmup=20, schedule="cosine"),
        evaluation=Evaluation(every=100, samples=8, timesteps=8),
        checkpoints=Checkpoints(every=100),
    )


def fca_ssv2(backbone: str) -> Run:
    """Frame-wise Conditioning Adaptation on Something-Something V2: 100,000 steps, 2 initial frames; meant for CogVideoX-2B."""
    return _fca("fca-ssv2", backbone, steps=100_000, n_init=2)


def fca_bridge(backbone: str) -> Run:
    """Frame-wise Conditioning Adaptation on BridgeData: 25,000 steps, 1 initial frame; meant for CogVideoX-2B."""
    return _fca("fca-bridge", backbone, steps=25_000, n_init=1)


def fca_epic(backbone: str) -> Run:
    """Frame-wise Conditioning Adaptation on Epic-Kitchens-100: 50,000 steps, 1 initial frame; meant for CogVideoX-2B."""
    return _fca("fca-epic", backbone, steps=50_000, n_init=1)


def fg_tiny(backbone: str) -> Run:
    """Focal Guidance on a tiny backbone: at the paper's rates a tiny model's loss does not move, so its own rate and warm-up."""
    return Run(
        name="fg-tiny",
        method=Fg(),
        backbone=backbone,
        steps=400,
        global_batch=8,
        micro_batch=8,
        optimizer=Optimizer(lr=1e-3, beta1=0.9, beta2=0.999, weight_decay=1e-2, warmup=20, schedule="cosine"),
        evaluation=Evaluation(every=100, samples=8, timesteps=8),
        checkpoints=Checkpoints(every=100),
    )


def fg_12k(backbone: str) -> Run:
    """Focal Guidance's post-training (arXiv 2601.07287): 8 samples a step at 1e-5 on Wan2.1-I2V, 1e-4 on HunyuanVideo-I2V.

    The paper tells no steps, optimiser or warm-up: 2,000 steps (12,000 clips one and a third times) of AdamW (0.9, 0.999), weight decay
    0.01, clipping at 1 are ours.
    """
    return Run(
        name="fg-12k",
        method=Fg(),
        backbone=backbone,
        steps=2_000,
        global_batch=8,
        optimizer=Optimizer(lr=1e-4 if backbones.backbone(backbone).family == "hunyuan" else 1e-5, beta1=0.9, beta2=0.999, weight_decay=1e-2, clip=1.0, warmup=100),
        blocks=Blocks(keep="nothing"),
        checkpoints=Checkpoints(every=500),
    )


def _fca(name: str, backbone: str, *, steps: int, n_init: Literal[1, 2]) -> Run:
    """What the paper's table 5 has in common: 8 samples a step (4 GPUs, 1 each, accumulated twice), AdamW (0.9, 0.95) at 1e-3 with one cosine cycle.

    Weight decay and epsilon are not told; they are those of the LoRA example in diffusers, whose every other number the table repeats.
    Trained on the split train and evaluated on validation, as the datasets give them.
    """
    return Run(
        name=name,
        method=Fca(n_init=n_init),
        backbone=backbone,
        steps=steps,
        global_batch=8,
        optimizer=Optimizer(lr=1e-3, beta1=0.9, beta2=0.95, weight_decay=1e-4, eps=1e-8, clip=1.0, warmup=200, schedule="cosine_restarts", cycles=1),
        blocks=Blocks(keep="nothing"),
        checkpoints=Checkpoints(every=1_000),
    )


def ssg_tiny(backbone: str) -> Run:
    """SSG-DiT on a tiny backbone, with a small image encoder that learns from the pixels on."""
    return Run(
        name="ssg-tiny",
        method=Ssg(image_encoder="conv", conv_side=48, conv_patch=8, conv_width=64, conv_depth=2),
        backbone=backbone,
        steps=600,
        global_batch=8,
        micro_batch=8,
        optimizer=Optimizer(lr=1e-3, warmup=20, schedule="cosine"),
        evaluation=Evaluation(every=100, samples=8, timesteps=8),
        checkpoints=Checkpoints(every=100),
    )


def ssg_openvidhd_33k(backbone: str) -> Run:
    """SSG-DiT on 33.5 thousand clips of OpenVidHD, meant for Wan2.1-T2V-1.3B and the data recipe of the same name.

    The paper states the clips alone: no rate, steps, batch, size of model or of video. Ours: 1e-4, 20,000 steps of 8 (4.8
    epochs), AdamW with weight decay 0.01; captions and pictures dropped for 10 in 100 each.
    """
    return Run(
        name="ssg-openvidhd-33k",
        method=Ssg(),
        backbone=backbone,
        steps=20_000,
        global_batch=8,
        optimizer=Optimizer(lr=1e-4, warmup=500, weight_decay=1e-2),
        blocks=Blocks(keep="nothing"),
        checkpoints=Checkpoints(every=1_000),
    )


def _vap(name: str, backbone: str, *, steps: int, lr: float) -> Run:
    """What paper and release share: methods of 48 single-sample processes, AdamW (0.9, 0.99), weight decay 1e-4, clipping at 1."""
    warmup = 500 if backbones.backbone(backbone).family == "wan" else 200
    return Run(
        name=name,
        method=Vap(),
        backbone=backbone,
        steps=steps,
        global_batch=48,
        optimizer=Optimizer(lr=lr, beta1=0.9, beta2=0.99, weight_decay=1e-4, eps=1e-8, clip=1.0, warmup=warmup),
        blocks=Blocks(keep="nothing"),
        checkpoints=Checkpoints(every=500),
    )


RECIPES: dict[str, Callable[[str], Run]] = {
    "vap-tiny": vap_tiny,
    "vap-paper": vap_paper,
    "vap-released": vap_released,
    "full-tiny": full_tiny,
    "full-finetune": full_finetune,
    "ssg-tiny": ssg_tiny,
    "ssg-openvidhd-33k": ssg_openvidhd_33k,
    "fca-tiny": fca_tiny,
    "fca-ssv2": fca_ssv2,
    "fca-bridge": fca_bridge,
    "fca-epic": fca_epic,
    "fg-tiny": fg_tiny,
    "fg-12k": fg_12k,
    "vap-miniature": vap_miniature,
    "full-miniature": full_miniature,
    "fca-miniature": fca_miniature,
    "ssg-miniature": ssg_miniature,
    "fg-miniature": fg_miniature,
}
"""Recipe name -> function from a backbone's name to a run."""

DEFAULTS = {
    "vap": ("vap-tiny", "vap-paper"),
    "full": ("full-tiny", "full-finetune"),
    "fca": ("fca-tiny", "fca-ssv2"),
    "ssg": ("ssg-tiny", "ssg-openvidhd-33k"),
    "fg": ("fg-tiny", "fg-12k"),
}
"""Method -> the recipe for a tiny backbone, and for a real one, when none is named."""


def recipe(name: str | None, method: str, backbone: str) -> Run:
    """The run that `name` makes of `backbone`; None takes the method's default. Raises CallError for a name that is none, or another method's."""
    facts = backbones.backbone(backbone)
    chosen = name or DEFAULTS[method][0 if facts.tiny else 1]
    if chosen not in RECIPES:
        raise CallError(f"--recipe {chosen!r}: there is no such training recipe{did_you_mean(chosen, RECIPES)}. Known: {', '.join(RECIPES)}.")
    run = RECIPES[chosen](facts.name)
    if run.method.name != method:
        mine = [each for each in RECIPES if each.startswith(f"{method}-")]
        raise CallError(f"--recipe {chosen}: trains {run.method.name}, this command is train.{method}. Type one of {', '.join(mine)}, or python -m train.{run.method.name}")
    return run
