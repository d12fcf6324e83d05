"""The image-condition latent: what an image-to-video backbone is given of a clip's first frame.

`transformer_input` makes of the stored latent what the pipeline hands to the transformer; the tests compare both with
diffusers' own pipelines. Exercised by `pytest tests/vapdata/encoders/test_vae_condition.py`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from vapdata.backbones import BACKBONES, Condition
from vapdata.encoders.vae import OpenVae, VaeSettings
from vapdata.errors import CallError
from vapdata.step import Product

MASK_CHANNELS = {"zero_frames": 4, "latent_concat": 1, "token_replace": 0, "zero_latents": 0}
"""Channels of the mask that goes with it: Wan folds four pixel frames into channels, HunyuanVideo's 33 hold one."""


@dataclass(frozen=True, kw_only=True)
class VaeCondition(VaeSettings):
    """The latent that an image-to-video backbone is conditioned on.

    What: Wan: the VAE's posterior mode of the clip [first frame, zeros ...], zero being mid-grey, as long as the product's
        clips. HunyuanVideo, in both its ways: the mode of the first frame alone; the zeros behind it are not stored. Unscaled.
    Reads: first.
    Writes: product `<vae>-condition-<frames>x<H>x<W>` in `latents`: bf16 (16, F, H/8, W/8), kind `condition`; F = 1 where the
        rest is zeros. The mask is not stored: it follows from the shape, see `transformer_input`.
    Default: as `vae`. A diagonal Gaussian's mode is its mean, and `logvar` changes nothing else.
    Cost: Wan: as much as a clip, grey frames included, and 4.19 MB at 81 x 480 x 832; HunyuanVideo one frame, 0.2 MB.
    Fails when: the backbone is text-to-video, or CogVideoX, whose condition `vae_first` stores (CallError); or a value is
        not finite.
    Source: diffusers WanImageToVideoPipeline and HunyuanVideoImageToVideoPipeline, `prepare_latents`.
    """

    name: ClassVar[str] = "vae_condition"
    reads: ClassVar[frozenset[str]] = frozenset({"first"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.facts.condition in (None, "zero_latents"):
            why = "takes no image" if self.facts.condition is None else "is given the first frame's latent, which vae_first stores"
            raise CallError(f"vae_condition.backbone = {self.backbone!r} {why}. Leave the step out, or use one of {', '.join(_conditioned())}.")
        self.facts.vae.law.check(self.sampling.frames)

    @property
    def pixel_frames(self) -> int:
        """Frames that go through the VAE, made-up ones included."""
        return self.sampling.frames if self.facts.condition == "zero_frames" else 1

    def products(self) -> tuple[Product, ...]:
        """The one product; the rate of the clip does not decide its bytes."""
        sampling = self.sampling
        name = f"{self.facts.vae.product}-condition-{self.pixel_frames}x{sampling.height}x{sampling.width}"
        settings = {"kind": "condition", "pixel_frames": self.pixel_frames, "rest": "zero pixels" if self.pixel_frames > 1 else "none"}
        return (self.product(name, settings),)

    def open(self, device: str | None = None) -> "OpenVaeCondition":
        """Loads the VAE."""
        return OpenVaeCondition(self, device)


class OpenVaeCondition(OpenVae):
    """A VAE at work on first frames."""

    def __init__(self, spec: VaeCondition, device: str | None) -> None:
        super().__init__(spec, kind="condition", pixel_frames=spec.pixel_frames, device=device)
        self._taken = 1

    def _pixels(self, frames: np.ndarray) -> Any:
        import torch

        first = super()._pixels(frames)
        rest = first.new_zeros(1, 3, self._pixel_frames - 1, *first.shape[3:])
        return torch.cat([first, rest], dim=2)


def transformer_input(
    latent: Float32[np.ndarray, "c f gh gw"], condition: Condition, latent_frames: int
) -> Float32[np.ndarray, "channels frames gh gw"]:
    """What the pipeline hands to the transformer of one clip's stored, then scaled, condition latent.

    `latent` is scaled as the backbone's facts say. zero_frames: 4 mask channels in front, 20 in all. latent_concat: zeros
    behind the first latent frame and a mask channel after the last, 17 in all. zero_latents: zeros behind, 16.
    token_replace: the latent itself, one frame. The mask is 1 on what is given.
    """
    if condition == "token_replace":
        return latent
    shown = np.zeros((latent.shape[0], latent_frames, *latent.shape[2:]), np.float32)
    shown[:, : latent.shape[1]] = latent
    mask = np.zeros((MASK_CHANNELS[condition], *shown.shape[1:]), np.float32)
    mask[:, 0] = 1.0
    return np.concatenate([mask, shown] if condition == "zero_frames" else [shown, mask])


def _conditioned() -> list[str]:
    return [name for name, facts in BACKBONES.items() if facts.condition not in (None, "zero_latents")]
