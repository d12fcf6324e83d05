"""Video latents: the raw posterior of the backbone's VAE.

`vae_first.py` makes those of the first frames alone, `vae_condition.py` what an image-to-video backbone is given of them.

Exercised by `pytest tests/vapdata/encoders/test_vae.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.backbones import Backbone, VaeFacts, backbone
from vapdata.clip import Sample, Sampling
from vapdata.errors import CallError
from vapdata.step import Cell, Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class VaeSettings:
    """Fields and checks that the latent of a clip and that of its first frames share."""

    name: ClassVar[str] = "vae"

    backbone: str
    sampling: Sampling
    logvar: bool = False
    """Also store the log-variance, behind the mean along the channels."""
    model: str | None = None
    """Another hub id or a local folder instead of the backbone's own."""
    tile_above_gb: float = 24.0
    """Encode in overlapping tiles when a clip is estimated to need more memory than this (CogVideoX: 480 x 720 needs 6.4,
    720 x 1280 17, 1080 x 1920 38). Tiles blend, so bytes change: decided by the sizes, never by the machine."""

    def __post_init__(self) -> None:
        facts = backbone(self.backbone)
        multiple = facts.vae.size_multiple
        for side, pixels in (("height", self.sampling.height), ("width", self.sampling.width)):
            if pixels < multiple or pixels % multiple:
                below = max(multiple, pixels // multiple * multiple)
                raise CallError(
                    f"sampling.{side} = {pixels} does not fit {self.backbone}: wanted a multiple of {multiple} "
                    f"(latent grid in 2 x 2 patches). Use {below} or {below + multiple}."
                )

    @property
    def facts(self) -> Backbone:
        """The backbone's numbers."""
        return backbone(self.backbone)

    @property
    def tiled(self) -> bool:
        """Whether this pixel grid is encoded in tiles: a function of the settings, not of the machine."""
        return estimated_gb(self.facts.vae, self.sampling.height, self.sampling.width) > self.tile_above_gb

    def products(self) -> tuple[Product, ...]:
        """What it writes; each kind of latent names its own."""
        raise NotImplementedError

    def weights(self) -> Sequence[Weight]:
        """The VAE's folder."""
        facts = self.facts
        return (
            Weight(
                repo=self.model or facts.vae.repo or facts.repo,
                subfolder=facts.vae.subfolder,
                stem="diffusion_pytorch_model",
                bytes=facts.vae.bytes,
                aliases=() if self.model else facts.vae.aliases or facts.aliases,
            ),
        )

    def product(self, name: str, settings: dict[str, Any]) -> Product:
        """A product of this name: the settings that every latent shares, and its own."""
        weight = self.weights()[0]
        model_id, revision = weight.model_id, stores.revision(weight)
        shared = {
            "height": self.sampling.height,
            "width": self.sampling.width,
            "resize": self.sampling.pictures,
            "logvar": self.logvar,
            "tiled": self.tiled,
            "scaling": "raw",
            "model_id": model_id,
            "revision": revision,
        }
        return Product(
            name=name, table="latents", model_id=model_id, revision=revision, dtype="bf16", settings={**shared, **settings}
        )


@dataclass(frozen=True, kw_only=True)
class Vae(VaeSettings):
    """The latent of a sampled clip.

    What: the posterior mean of the backbone's VAE, not scaled and not sampled (log-variance behind it by `logvar`).
    Reads: frames.
    Writes: product `<vae>-<frames>x<H>x<W>-<fps>fps` in `latents`: bf16 (16, F, H/8, W/8), channels first. CogVideoX: F = 2k
        for 8k frames, 2k+1 for 8k+1; Wan and HunyuanVideo: F = k+1 for 4k+1. Columns say pixels, rate, latent frames and
        whether the first stands alone.
    Default: bf16 on a GPU (Wan float32, as diffusers loads it), float32 on a CPU, one clip at a time; tiles above
        `tile_above_gb`. HunyuanVideo's class encodes more than 16 frames in blended pieces of its own accord.
    Cost: tiny 0.3 to 0.5 s a clip on one CPU core; CogVideoX at 480 x 720 an estimated 6.4 GB of GPU memory. 2.25 MB a clip
        of 49 x 480 x 720 on disk, 4.19 MB of 81 x 480 x 832.
    Fails when: the number of frames breaks the frame law (CallError at once), or a value is not finite.
    Source: diffusers AutoencoderKLCogVideoX, AutoencoderKLWan and AutoencoderKLHunyuanVideo, `encode`.
    """

    name: ClassVar[str] = "vae"
    reads: ClassVar[frozenset[str]] = frozenset({"frames"})

    def __post_init__(self) -> None:
        super().__post_init__()
        self.facts.vae.law.check(self.sampling.frames)

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        sampling = self.sampling
        name = f"{self.facts.vae.product}-{sampling.label()}"
        settings = {"kind": "video", "pixel_frames": sampling.frames, "fps": sampling.fps, "short": sampling.short}
        return (self.product(name, settings),)

    def open(self, device: str | None = None) -> "OpenVae":
        """Loads the VAE."""
        return OpenVae(self, kind="video", pixel_frames=self.sampling.frames, device=device)


def estimated_gb(vae: VaeFacts, height: int, width: int) -> float:
    """Estimated peak memory (GB) of encoding one clip of this size untiled on a GPU, whatever its length.

    The classes work on a few frames at a time, so length does not matter: frames x H x W x channels x copies alive, or
    for HunyuanVideo the mask over its tokens (bool, float32 and the computing type), where that is more.
    """
    peak, size = vae.peak, 4 if vae.precision == "f32" else 2
    activations = peak.frames * height * width * peak.channels * peak.copies * size
    tokens = peak.attended_frames * (height // vae.spatial_stride) * (width // vae.spatial_stride)
    return max(activations, tokens**2 * (5 + size)) / 1e9


class OpenVae:
    """A VAE at work."""

    def __init__(self, spec: VaeSettings, *, kind: Literal["video", "first", "condition"], pixel_frames: int, device: str | None) -> None:
        import diffusers
        import torch

        vae = spec.facts.vae
        self._device = devices.pick(device)
        self._dtype = torch.float32 if vae.precision == "f32" else devices.precision(self._device)
        folder = stores.find(spec.weights()[0])
        model = getattr(diffusers, vae.model_class).from_pretrained(
            folder, torch_dtype=self._dtype, use_safetensors=True, local_files_only=True
        )
        self._model = model.to(self._device).eval().requires_grad_(False)
        if spec.tiled:
            self._model.enable_tiling()
        self._spec = spec
        self._kind = kind
        self._pixel_frames = pixel_frames
        self._taken = pixel_frames
        """Sampled frames that go in; the rest of `pixel_frames`, if any, are made up."""
        self._product = spec.products()[0].name

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell for each sample, encoded one by one: a clip fills a GPU, and no row depends on its neighbours."""
        return [[self._cell(sample)] for sample in samples]

    def constants(self) -> list[Cell]:
        """None."""
        return []

    def posterior(self, frames: UInt8[np.ndarray, "t h w 3"]) -> Float32[np.ndarray, "c f gh gw"]:
        """Mean of the latent distribution, log-variance behind it along the channels with `logvar`. Unscaled."""
        return self._posterior(self._pixels(frames))

    def _posterior(self, pixels: Any) -> Any:
        import torch

        with torch.inference_mode(), devices.out_of_memory(self._spec.name, f"Type: --set {self._spec.name}.tile_above_gb=4"):
            # Of one clip, torch on a CPU takes 3D convolutions through slow_conv3d, of two through oneDNN: twice the work takes
            # 0.43 of the time (CogVideoX; Wan 0.80, HunyuanVideo 0.43), and results are within 5e-6.
            latent = self._model.encode(pixels if pixels.is_cuda else pixels.expand(2, -1, -1, -1, -1)).latent_dist
            parts = [latent.mean, latent.logvar] if self._spec.logvar else [latent.mean]
            return torch.cat(parts, dim=1)[0].float().cpu().numpy()

    def _pixels(self, frames: np.ndarray) -> Any:
        """What the model is given: a torch tensor (1, 3, t, H, W) of -1 to 1."""
        import torch

        pixels = torch.from_numpy(np.ascontiguousarray(frames)).to(self._device)
        return pixels.permute(3, 0, 1, 2)[None].to(self._dtype) / 127.5 - 1.0

    def _cell(self, sample: Sample) -> Cell:
        sampling = self._spec.sampling
        frames = sample.frames[: self._taken] if sample.frames is not None else None
        wanted = (self._taken, sampling.height, sampling.width, 3)
        data = self.posterior(devices.grid(frames, sample.clip_id, wanted))
        devices.finite(data, self._product, sample.clip_id)
        return Cell(
            product=self._product, clip_id=sample.clip_id, data=data, shape=data.shape, columns=self._columns(data.shape[1])
        )

    def _columns(self, latent_frames: int) -> dict[str, Any]:
        law, sampling = self._spec.facts.vae.law, self._spec.sampling
        first_alone = law.first_alone(self._pixel_frames)
        # Two first frames make one latent frame, outside the law of whole clips: that one covers both.
        blended = self._kind == "first" and not first_alone
        return {
            "resize": sampling.pictures,
            "pixel_height": sampling.height,
            "pixel_width": sampling.width,
            "kind": self._kind,
            "pixel_frames": self._pixel_frames,
            "fps": float(sampling.fps) if sampling.short != "slow" else None,  # then a short clip has a rate of its own
            "latent_frames": latent_frames,
            "temporal_stride": self._pixel_frames if blended else law.stride,
            "first_alone": first_alone,
            "has_logvar": self._spec.logvar,
        }
