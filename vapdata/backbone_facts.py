"""What is written down about a backbone and the models around it. The numbers themselves stand in `vapdata/backbones.py`.

Exercised by `pytest tests/vapdata/test_backbones.py`.
"""

from dataclasses import dataclass
from typing import Literal

from vapdata.frame_law import FrameLaw

Objective = Literal["v_prediction", "flow"]

Condition = Literal["zero_latents", "zero_frames", "token_replace", "latent_concat"]
"""How an image-to-video transformer is given its first frame, and so what the image-condition latent is.

    zero_latents   CogVideoX: the frame's latent, then zeros, beside the noisy latent along the channels
    zero_frames    Wan: the latent of the clip [frame, zeros ...], and a mask, beside the noisy latent
    token_replace  HunyuanVideo-I2V: the frame's latent stands in for noisy latent frame 0, and stays clean
    latent_concat  HunyuanVideo-I2V with 33 channels: the frame's latent, then zeros, and a mask, beside the noisy latent
"""


@dataclass(frozen=True, kw_only=True)
class VaePeak:
    """What the memory of encoding one clip depends on, measured with the real classes in float32 at 64 x 96 pixels.

    `encoders/vae.py` estimates from it.
    """

    channels: int
    """Width of the first block, where activations are largest."""
    frames: int
    """Pixel frames that the class works on at once."""
    copies: float
    """Copies of that activation alive at the peak."""
    attended_frames: int = 0
    """Latent frames that the middle block's attention mask spans; 0 where each frame attends to itself."""


@dataclass(frozen=True, kw_only=True)
class VaeFacts:
    """A video VAE. Latents are stored raw; a trainer scales them as it loads them: (z - mean) / std * scaling_factor.

    Image latents, those of the first frames that condition a backbone, go by `image_scaling_factor` instead.
    """

    model_class: Literal["AutoencoderKLCogVideoX", "AutoencoderKLWan", "AutoencoderKLHunyuanVideo"]
    """Its class in diffusers."""
    subfolder: str
    repo: str | None = None
    """Where it is, when several backbones share one; None for the backbone's own repository."""
    aliases: tuple[str, ...] = ()
    """Other repositories that hold the same files."""
    product: str
    """First part of the names of its products."""
    latent_channels: int
    spatial_stride: int
    scaling_factor: float = 1.0
    mean: tuple[float, ...] = ()
    """Per channel; empty for zeros."""
    std: tuple[float, ...] = ()
    """Per channel; empty for ones."""
    invert_image_latents: bool = False
    """CogVideoX 1.5 was trained with image latents divided by the factor: `invert_scale_latents` in its VAE's config."""
    law: FrameLaw
    peak: VaePeak
    precision: Literal["bf16", "f32"] = "bf16"
    """What it computes in on a GPU; diffusers' documentation loads Wan's in float32."""
    bytes: int | None = None

    @property
    def image_scaling_factor(self) -> float:
        """What stands for `scaling_factor` where image latents are scaled."""
        return 1 / self.scaling_factor if self.invert_image_latents else self.scaling_factor

    @property
    def size_multiple(self) -> int:
        """Height and width must divide by this: the stride times the transformer's 2 x 2 patches."""
        return 2 * self.spatial_stride


@dataclass(frozen=True, kw_only=True)
class TextFacts:
    """A text encoder.

    No attention mask reaches CogVideoX, so there padding rows count and all `rows` are kept; the others are stored ragged.
    """

    subfolder: str
    repo: str | None = None
    """Where it is, when several backbones share one; None for the backbone's own repository."""
    aliases: tuple[str, ...] = ()
    """Other repositories that hold the same files."""
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
    architecture: str | None = None
    """open_clip's name of its shapes, for plans made without its weights; None for a tiny one, which is always here."""
    mask_layer: int = -2
    """The block that masks are made from, 0-based, negative from the last."""
    mask_kernel: int = 3
    """Side of the mean filter over the grid of patches."""


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
    condition: Condition | None = None
    """How the first frame gets in; None for text-to-video."""
    frames: int
    height: int
    width: int
    fps: float
    """What the backbone was trained on: frames, pixels, frames per second."""
    patch_frames: int = 1
    """Latent frames that one patch spans. Where their count does not divide, a trainer puts copies of latent frame 0 in
    front, as CogVideoX 1.5 was trained, and what is sampled is cut off again."""
    tiny: bool = False
    """A few hundred thousand weights made on the spot; see vapdata/tiny.py."""
