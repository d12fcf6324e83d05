"""The latent of a clip's first frames alone: what an image-to-video backbone and FCA are conditioned on.

Exercised by `pytest tests/vapdata/encoders/test_vae_first.py`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from vapdata.encoders.vae import OpenVae, VaeSettings
from vapdata.errors import CallError
from vapdata.step import Product


@dataclass(frozen=True, kw_only=True)
class VaeFirst(VaeSettings):
    """The latent of a clip's first frame, or first two.

    What: the first `first` sampled frames encoded as a tiny clip of their own; always one latent frame.
    Reads: first (frames when `first` is 2).
    Writes: product `<vae>-first1-<H>x<W>` or `<vae>-first2-<H>x<W>-<fps>fps` in `latents`: bf16 (16, 1, H/8, W/8), kind `first`.
    Default: first=1. Two frames (CogVideoX alone) take the VAE's averaging path: one latent that blends both.
    Cost: about a ninth of a 9-frame clip; 0.17 MB at 480 x 720.
    Fails when: a value is not finite.
    Source: FCA section 3 (1 initial frame for Bridge and Epic, 2 for Something-Something); CogVideoX-5B-I2V.
    """

    name: ClassVar[str] = "vae_first"

    first: Literal[1, 2] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.first <= min(2, self.sampling.frames):
            raise CallError(f"vae_first.first = {self.first}: wanted 1, or 2 when two frames are sampled. Use 1.")
        if self.first == 2 and not self.facts.vae.law.whole_periods:
            raise CallError(
                f"vae_first.first = 2: {self.backbone}'s VAE makes latent frame 0 of one frame and would leave the second out. Use 1."
            )

    @property
    def reads(self) -> frozenset[str]:
        """`first` for one frame, `frames` for two."""
        return frozenset({"first"}) if self.first == 1 else frozenset({"frames"})

    def products(self) -> tuple[Product, ...]:
        """The one product; for one frame neither rate nor number of frames decides its bytes."""
        name = f"{self.facts.vae.product}-first{self.first}-{self.sampling.height}x{self.sampling.width}"
        settings: dict[str, Any] = {"kind": "first", "pixel_frames": self.first}
        if self.first > 1:
            name += f"-{self.sampling.fps:g}fps"
            settings |= {"fps": self.sampling.fps, "short": self.sampling.short}
        if self.first > 1 and self.sampling.short == "slow":  # a short clip's second frame lies at duration / frames
            settings["of_frames"] = self.sampling.frames
        return (self.product(name, settings),)

    def open(self, device: str | None = None) -> "OpenVae":
        """Loads the VAE."""
        return OpenVae(self, kind="first", pixel_frames=self.first, device=device)
