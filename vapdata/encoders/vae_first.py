"""The latent of a clip's first frames alone: what an image-to-video backbone and FCA are conditioned on.

Exercised by `pytest tests/vapdata/encoders/test_vae_first.py`.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from vapdata import device as devices
from vapdata.clip import Sample
from vapdata.encoders.vae import OpenVae, VaeSettings
from vapdata.errors import CallError
from vapdata.step import Cell, Product

NOISE_MEAN, NOISE_DEVIATION = -3.0, 0.5
"""Of the logarithm of the noise's deviation, pixels being -1 to 1: CogVideoX's image-to-video trainers."""


@dataclass(frozen=True, kw_only=True)
class VaeFirst(VaeSettings):
    """The latent of a clip's first frame, or first two.

    What: the first `first` sampled frames encoded as a tiny clip of their own; always one latent frame.
    Reads: first (frames when `first` is 2).
    Writes: product `<vae>-first1-<H>x<W>` or `<vae>-first2-<H>x<W>-<fps>fps` in `latents`: bf16 (16, 1, H/8, W/8), kind `first`.
        With `noised` also `<vae>-first1-<H>x<W>-noised<K>`: bf16 (K, 16, 1, H/8, W/8), kind `noised`.
    Default: first=1, noised=0. Two frames (CogVideoX alone) take the VAE's averaging path: one latent that blends both.
    Cost: about a ninth of a 9-frame clip; 0.17 MB at 480 x 720.
    Fails when: a value is not finite.
    Source: FCA section 3 (1 initial frame for Bridge and Epic, 2 for Something-Something); CogVideoX-5B-I2V.
    """

    name: ClassVar[str] = "vae_first"

    first: Literal[1, 2] = 1
    noised: int = 0
    """Latents of the first frame with noise of deviation exp(N(-3, 0.5)) on its pixels to store beside the clean one.

    CogVideoX-I2V was trained so, with new noise at every step; a trainer that reads stored latents can only choose among
    these. What is drawn follows from clip id and number alone."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.first <= min(2, self.sampling.frames):
            raise CallError(f"vae_first.first = {self.first}: wanted 1, or 2 when two frames are sampled. Use 1.")
        if self.first == 2 and not self.facts.vae.law.whole_periods:
            raise CallError(
                f"vae_first.first = 2: {self.backbone}'s VAE makes latent frame 0 of one frame and would leave the second out. Use 1."
            )

        if self.noised < 0 or (self.noised and (self.first != 1 or self.facts.family != "cogvideox")):
            raise CallError(f"vae_first.noised = {self.noised} with first = {self.first} for {self.backbone}: wanted 0, or with first = 1 and a CogVideoX 1 or more. Use 0.")

    @property
    def variant(self) -> str:
        """How many frames: a recipe may want both."""
        return str(self.first)

    @property
    def reads(self) -> frozenset[str]:
        """`first` for one frame, `frames` for two."""
        return frozenset({"first"}) if self.first == 1 else frozenset({"frames"})

    def products(self) -> tuple[Product, ...]:
        """The clean latent, then the noised ones if any; for one frame neither rate nor number of frames decides the bytes."""
        name = f"{self.facts.vae.product}-first{self.first}-{self.sampling.height}x{self.sampling.width}"
        settings: dict[str, Any] = {"kind": "first", "pixel_frames": self.first}
        if self.first > 1:
            name += f"-{self.sampling.fps:g}fps"
            settings |= {"fps": self.sampling.fps, "short": self.sampling.short}
        if self.first > 1 and self.sampling.short == "slow":  # a short clip's second frame lies at duration / frames
            settings["of_frames"] = self.sampling.frames
        clean = self.product(name, settings)
        if not self.noised:
            return (clean,)
        noise = {"kind": "noised", "copies": self.noised, "log_sigma": [NOISE_MEAN, NOISE_DEVIATION]}
        return (clean, self.product(f"{name}-noised{self.noised}", settings | noise))

    def open(self, device: str | None = None) -> "OpenVaeFirst":
        """Loads the VAE."""
        return OpenVaeFirst(self, device)


class OpenVaeFirst(OpenVae):
    """A VAE at work on first frames."""

    def __init__(self, spec: VaeFirst, device: str | None) -> None:
        super().__init__(spec, kind="first", pixel_frames=spec.first, device=device)
        self._first = spec

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """The clean latent of each sample, then the noised ones as one cell where they are wanted."""
        return [[self._cell(sample), *([self._noised(sample)] if self._first.noised else [])] for sample in samples]

    def _noised(self, sample: Sample) -> Cell:
        import torch

        spec = self._first
        frames = sample.frames[:1] if sample.frames is not None else None
        pixels = self._pixels(devices.grid(frames, sample.clip_id, (1, spec.sampling.height, spec.sampling.width, 3)))
        noise = (torch.from_numpy(image_noise(sample.clip_id, copy, tuple(pixels.shape))) for copy in range(spec.noised))
        data = np.stack([self._posterior((pixels.float() + each.to(pixels.device)).to(pixels.dtype)) for each in noise])
        product = spec.products()[1].name
        devices.finite(data, product, sample.clip_id)
        columns = {**self._columns(1), "kind": "noised"}
        return Cell(product=product, clip_id=sample.clip_id, data=data, shape=data.shape, columns=columns)


def image_noise(clip_id: str, copy: int, shape: tuple[int, ...]) -> np.ndarray:
    """Noise for pixels of -1 to 1, float32, of deviation exp(N(-3, 0.5)): about 0.05, nearly always 0.01 to 0.2."""
    key = int.from_bytes(hashlib.sha256(f"{clip_id}\0{copy}".encode()).digest()[:16], "big")
    draw = np.random.Generator(np.random.Philox(key=key))
    return np.exp(draw.normal(NOISE_MEAN, NOISE_DEVIATION)).astype(np.float32) * draw.standard_normal(shape, dtype=np.float32)
