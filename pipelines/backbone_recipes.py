"""One recipe for each backbone: everything its trainers read, at the grid it was trained on.

Exercised by `pytest tests/pipelines/test_recipes.py`.
"""

from collections.abc import Sequence
from typing import Any

from pipelines.recipe import EncodeStage, Recipe
from vapdata.clip import Sampling
from vapdata.encoders.blip2_words import Blip2Words
from vapdata.encoders.clip_mask import ClipMask
from vapdata.encoders.clip_text import ClipText
from vapdata.encoders.first_frame import FirstFrame
from vapdata.encoders.image_tokens import ImageTokens
from vapdata.encoders.keywords import Keywords
from vapdata.encoders.llava import Llava
from vapdata.encoders.t5 import T5
from vapdata.encoders.umt5 import Umt5
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_condition import VaeCondition
from vapdata.encoders.vae_first import VaeFirst
from vapdata.step import Encoder

TINY_GRID = Sampling(frames=9, height=96, width=160, fps=16)
"""Legal for all three VAEs, so that the tiny recipes share frames and masks in one catalog."""


MINIATURE_GRID = Sampling(frames=9, height=32, width=32, fps=8)
"""What the tiny models that ship were trained on: the source `miniature` as it comes."""
LARGE_GRID = Sampling(frames=9, height=64, width=64, fps=8)
"""Four times as many video tokens."""


def tiny() -> Recipe:
    """Small clips for the embedded CogVideoX-class models: 9 frames of 96 x 160, CPU, no network."""
    return _cogvideox("tiny-cogvideox", TINY_GRID, frame_words=True)


def tiny_wan() -> Recipe:
    """Small clips for the embedded Wan-class models, image-to-video: 9 frames of 96 x 160, CPU, no network."""
    grid: dict[str, Any] = {"backbone": "tiny-wan", "sampling": TINY_GRID}
    pictures = (FirstFrame(sampling=TINY_GRID), ClipMask(**grid), ImageTokens(**grid, tower="clip"), ImageTokens(**grid), Keywords(**grid))
    return in_stages("tiny-wan", TINY_GRID, (*pictures, Vae(**grid), VaeCondition(**grid)), (Umt5(backbone="tiny-wan"),))


def miniature() -> Recipe:
    """The miniature world for the embedded CogVideoX-class models, on the grid they were trained on: 9 frames of 32 x 32."""
    return _cogvideox("tiny-cogvideox", MINIATURE_GRID, name="miniature")


def miniature_wan() -> Recipe:
    """The miniature world for the embedded Wan-class models, on the grid they were trained on: 9 frames of 32 x 32, what the backbone itself reads."""
    return wan_i2v("tiny-wan", MINIATURE_GRID, name="miniature-wan")


def miniature_large() -> Recipe:
    """The miniature world with four times as many tokens, 9 frames of 64 x 64: what the backbone itself and Video-As-Prompt read."""
    grid: dict[str, Any] = {"backbone": "tiny-cogvideox", "sampling": LARGE_GRID}
    frames = (FirstFrame(sampling=LARGE_GRID), Vae(**grid), VaeFirst(**grid, first=1))
    return in_stages("tiny-cogvideox", LARGE_GRID, frames, (T5(backbone="tiny-cogvideox"),), name="miniature-large")


def miniature_methods() -> Recipe:
    """As `miniature`, with what Frame-wise Conditioning Adaptation reads of a clip: BLIP-2's tokens and words."""
    return _cogvideox("tiny-cogvideox", MINIATURE_GRID, frame_words=True, name="miniature-methods")


def miniature_wan_methods() -> Recipe:
    """As `miniature-wan`, with what SSG-DiT and Focal Guidance read of a clip: masks and keywords."""
    grid: dict[str, Any] = {"backbone": "tiny-wan", "sampling": MINIATURE_GRID}
    return wan_i2v("tiny-wan", MINIATURE_GRID, (ClipMask(**grid), ImageTokens(**grid, tower="clip"), Keywords(**grid)), name="miniature-wan-methods")


def tiny_hunyuan() -> Recipe:
    """Small clips for the embedded HunyuanVideo-class models, image-to-video: 9 frames of 96 x 160, CPU, no network."""
    grid: dict[str, Any] = {"backbone": "tiny-hunyuan", "sampling": TINY_GRID}
    return hunyuan_i2v("tiny-hunyuan", TINY_GRID, (ClipMask(**grid), Keywords(**grid)))


def cogvideox_2b() -> Recipe:
    """Clips for CogVideoX-2B as Frame-wise Conditioning Adaptation reads them: 16 frames of 480 x 720 at 8 fps."""
    return _cogvideox("cogvideox-2b", Sampling(frames=16, height=480, width=720, fps=8), frame_words=True)


def cogvideox_5b_i2v() -> Recipe:
    """Clips for CogVideoX-5B-I2V as Video-As-Prompt reads them: 49 frames of 480 x 720 at 16 fps."""
    return _cogvideox("cogvideox-5b-i2v", Sampling(frames=49, height=480, width=720, fps=16))


def wan_t2v_1_3b() -> Recipe:
    """Clips for Wan2.1-T2V-1.3B: 81 frames of 480 x 832 at 16 fps, and the first frames and masks that SSG-DiT reads."""
    return wan_t2v("wan2.1-t2v-1.3b", Sampling(frames=81, height=480, width=832, fps=16))


def wan_t2v_14b() -> Recipe:
    """Clips for Wan2.1-T2V-14B at its larger size: 81 frames of 720 x 1280 at 16 fps, first frames and masks."""
    return wan_t2v("wan2.1-t2v-14b", Sampling(frames=81, height=720, width=1280, fps=16))


def wan_i2v_14b_480p() -> Recipe:
    """Clips for Wan2.1-I2V-14B-480P: 81 frames of 480 x 832 at 16 fps, the image condition and CLIP-H tokens."""
    return wan_i2v("wan2.1-i2v-14b-480p", Sampling(frames=81, height=480, width=832, fps=16))


def hunyuanvideo_i2v() -> Recipe:
    """Clips for HunyuanVideo-I2V: 61 frames of 544 x 960 at 24 fps, the image condition, LLaVA and CLIP-L text."""
    return hunyuan_i2v("hunyuanvideo-i2v", Sampling(frames=61, height=544, width=960, fps=24))


def wan_t2v(backbone: str, sampling: Sampling, **changes: Any) -> Recipe:
    """Text-to-video on Wan, with what a spatial prompt (SSG-DiT) is made of: its trainer runs CLIP on the prompt, which depends on switches of the run."""
    grid: dict[str, Any] = {"backbone": backbone, "sampling": sampling}
    frames = (FirstFrame(sampling=sampling), ClipMask(**grid), Vae(**grid))
    return in_stages(backbone, sampling, frames, (Umt5(backbone=backbone),), **changes)


def wan_i2v(backbone: str, sampling: Sampling, more: Sequence[Encoder] = (), **changes: Any) -> Recipe:
    """Image-to-video on Wan as its pipeline reads it, and `more`."""
    grid: dict[str, Any] = {"backbone": backbone, "sampling": sampling}
    frames = (FirstFrame(sampling=sampling), ImageTokens(**grid), *more, Vae(**grid), VaeCondition(**grid))
    return in_stages(backbone, sampling, frames, (Umt5(backbone=backbone),), **changes)


def hunyuan_i2v(backbone: str, sampling: Sampling, more: Sequence[Encoder] = (), **changes: Any) -> Recipe:
    """Image-to-video on HunyuanVideo as its pipeline reads it, and `more`."""
    grid: dict[str, Any] = {"backbone": backbone, "sampling": sampling}
    frames = (FirstFrame(sampling=sampling), *more, Vae(**grid), VaeCondition(**grid), Llava(**grid))
    return in_stages(backbone, sampling, frames, (ClipText(backbone=backbone),), **changes)


def in_stages(backbone: str, sampling: Sampling, frames: Sequence[Encoder], texts: Sequence[Encoder], **changes: Any) -> Recipe:
    """A recipe named after its backbone: all in one stage for a tiny one, else those of frames and of texts apart, on GPUs.

    `changes` are further fields of the recipe, its name among them.
    """
    if backbone.startswith("tiny"):
        stages = (EncodeStage(name="encode", encoders=(*frames, *texts)),)
    else:
        stages = (
            EncodeStage(name="encode", encoders=tuple(frames), gpus=1.0, batch=4, cpus=2.0),
            EncodeStage(name="text", encoders=tuple(texts), gpus=1.0, batch=16),
        )
    return Recipe(**{"name": backbone, "backbone": backbone, "sampling": sampling, "encode": stages, **changes})


def _cogvideox(backbone: str, sampling: Sampling, *, frame_words: bool = False, **changes: Any) -> Recipe:
    """Image- or text-to-video on CogVideoX; with `frame_words` what frame-wise text is made of: BLIP-2's tokens of the first frame and words of the caption."""
    grid: dict[str, Any] = {"backbone": backbone, "sampling": sampling}
    picture = (FirstFrame(sampling=sampling), ClipMask(**grid))
    latents = (Vae(**grid), VaeFirst(**grid, first=1), VaeFirst(**grid, first=2))
    tokens, words = ((ImageTokens(**grid, tower="blip2"),), (Blip2Words(backbone=backbone),)) if frame_words else ((), ())
    return in_stages(backbone, sampling, (*picture, *tokens, *latents), (T5(backbone=backbone), *words), **changes)
