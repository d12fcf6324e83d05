"""What is fixed about each video backbone: where its models live, how its VAE counts frames, how its text is padded.

Plain numbers, no torch: the command line and the planner read them. Encoders and trainers ask here instead of
repeating a stride or a scaling factor. Exercised by `pytest tests/vapdata/test_backbones.py`.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from typing import Literal

from vapdata.errors import CallError

Objective = Literal["v_prediction", "flow"]


@dataclass(frozen=True, kw_only=True)
class FrameLaw:
    """Which numbers of pixel frames a video VAE takes, and how many latent frames come out.

    Legal are 1, `period * k + 1` and, with `whole_periods`, `period * k`.
    """

    name: str
    period: int
    """Pixel frames that the VAE works on at once."""
    stride: int
    """Pixel frames per latent frame."""
    whole_periods: bool
    """Also takes `period * k` frames, where no frame stands alone: latent frame 0 covers `stride` pixel frames."""

    def legal(self, pixel_frames: int) -> bool:
        """Whether encode and decode of this many frames give this many frames back."""
        if pixel_frames < 1:
            return False
        rest = pixel_frames % self.period
        return rest == 1 or pixel_frames == 1 or (rest == 0 and self.whole_periods)

    def neighbours(self, pixel_frames: int) -> tuple[int, ...]:
        """The nearest legal count below and above (only above when there is none below)."""
        below = next((count for count in range(pixel_frames - 1, 0, -1) if self.legal(count)), None)
        above = next(count for count in range(max(pixel_frames, 0) + 1, pixel_frames + 2 * self.period + 2) if self.legal(count))
        return (above,) if below is None else (below, above)

    def check(self, pixel_frames: int) -> None:
        """Raises CallError, naming the legal neighbours, unless the count is legal."""
        if self.legal(pixel_frames):
            return
        counts = f"1, {self.period}k+1" + (f" or {self.period}k" if self.whole_periods else "")
        near = " or ".join(str(count) for count in self.neighbours(pixel_frames))
        raise CallError(
            f"{pixel_frames} frames do not fit the {self.name} VAE: sampling.frames must be {counts}. Use {near} frames."
        )

    def latent_frames(self, pixel_frames: int) -> int:
        """Latent frames of a legal count; raises CallError for another."""
        self.check(pixel_frames)
        if self.first_alone(pixel_frames):
            return 1 + (pixel_frames - 1) // self.stride
        return pixel_frames // self.stride

    def first_alone(self, pixel_frames: int) -> bool:
        """Whether latent frame 0 covers pixel frame 0 alone."""
        return pixel_frames % self.period == 1 or pixel_frames == 1


COGVIDEOX_LAW = FrameLaw(name="CogVideoX", period=8, stride=4, whole_periods=True)
"""Measured with the real class: only 1, 8k and 8k+1 frames survive a round trip through AutoencoderKLCogVideoX."""
WAN_LAW = FrameLaw(name="Wan", period=4, stride=4, whole_periods=False)
"""AutoencoderKLWan and HunyuanVideo's VAE: strictly 4k+1."""


@dataclass(frozen=True, kw_only=True)
class VaeFacts:
    """A video VAE. Latents are stored raw; a trainer multiplies by `scaling_factor` as it loads them."""

    subfolder: str
    product: str
    """First part of the names of its products."""
    latent_channels: int
    spatial_stride: int
    scaling_factor: float
    law: FrameLaw
    bytes: int | None = None

    @property
    def size_multiple(self) -> int:
        """Height and width must divide by this: the stride times the transformer's 2 x 2 patches."""
        return 2 * self.spatial_stride


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """A text encoder. No attention mask reaches the backbone, so padding rows count and all `rows` are kept."""

    subfolder: str
    tokenizer_subfolder: str
    product: str
    rows: int
    width: int
    hub_files: tuple[str, ...]
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClipFacts:
    """The CLIP model whose attention makes the masks: a repository in open_clip's folder format."""

    repo: str
    subfolder: str
    product: str
    quick_gelu: bool
    """OpenAI's weights were trained with QuickGELU; a config that leaves it out would load without a word."""
    bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class Backbone:
    """One video backbone and the models around it."""

    name: str
    family: Literal["cogvideox", "wan", "hunyuan"]
    repo: str
    """Hub repository in diffusers' folder format, or the name of a tiny model."""
    aliases: tuple[str, ...] = ()
    """Earlier names of the repository: a hub cache may hold it under one of them."""
    vae: VaeFacts
    text: TextFacts
    clip: ClipFacts
    objective: Objective
    image_to_video: bool
    frames: int
    height: int
    width: int
    fps: float
    """What the backbone was trained on: frames, pixels, frames per second."""
    tiny: bool = False
    """A few hundred thousand weights made on the spot; see vapdata/tiny.py."""


_CLIP_L14_336 = ClipFacts(
    repo="timm/vit_large_patch14_clip_336.openai",
    subfolder="",
    product="clip-l14-336",
    quick_gelu=True,
    bytes=1_710_000_000,
)


def _cogvideox(name: str, short: str, repo: str, scaling_factor: float, *, image_to_video: bool) -> Backbone:
    shards = tuple(f"model-{part:05d}-of-00002.safetensors" for part in (1, 2))
    return Backbone(
        name=name,
        family="cogvideox",
        repo=f"zai-org/{repo}",
        aliases=(f"THUDM/{repo}",),
        vae=VaeFacts(
            subfolder="vae",
            product=f"{short}-vae",
            latent_channels=16,
            spatial_stride=8,
            scaling_factor=scaling_factor,
            law=COGVIDEOX_LAW,
            bytes=431_000_000,
        ),
        text=TextFacts(
            subfolder="text_encoder",
            tokenizer_subfolder="tokenizer",
            product=f"{short}-t5-226",
            rows=226,
            width=4096,
            hub_files=("model.safetensors.index.json", *shards),
            bytes=9_520_000_000,
        ),
        clip=_CLIP_L14_336,
        objective="v_prediction",
        image_to_video=image_to_video,
        frames=49,
        height=480,
        width=720,
        fps=8,
    )


TINY_COGVIDEOX = Backbone(
    name="tiny-cogvideox",
    family="cogvideox",
    repo="tiny-cogvideox",
    vae=VaeFacts(
        subfolder="vae",
        product="tiny-cogvideox-vae",
        latent_channels=16,
        spatial_stride=8,
        scaling_factor=1.15258426,
        law=COGVIDEOX_LAW,
    ),
    text=TextFacts(
        subfolder="text_encoder",
        tokenizer_subfolder="tokenizer",
        product="tiny-t5-226",
        rows=226,
        width=64,
        hub_files=("model.safetensors",),
    ),
    clip=ClipFacts(repo="tiny-cogvideox", subfolder="clip", product="tiny-clip", quick_gelu=True),
    objective="v_prediction",
    image_to_video=True,
    frames=9,
    height=96,
    width=160,
    fps=8,
    tiny=True,
)

BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        TINY_COGVIDEOX,
        _cogvideox("cogvideox-2b", "cogvideox-2b", "CogVideoX-2b", 1.15258426, image_to_video=False),
        _cogvideox("cogvideox-5b-i2v", "cogvideox-5b", "CogVideoX-5b-I2V", 0.7, image_to_video=True),
    )
}

ALIASES = {"tiny": "tiny-cogvideox"}


def backbone(name: str) -> Backbone:
    """The backbone of this name (`tiny` is `tiny-cogvideox`); raises CallError with the nearest names for another."""
    found = BACKBONES.get(ALIASES.get(name, name))
    if found is None:
        near = get_close_matches(name, BACKBONES, n=1, cutoff=0.4)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise CallError(f"no backbone is called {name!r}; there are {', '.join(BACKBONES)}.{hint}")
    return found
