"""The first frame at a product's size, lossless: what a visual prompt and an image condition are made from.

Exercised by `pytest tests/vapdata/encoders/test_first_frame.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from vapdata import device as devices
from vapdata.clip import Sample, Sampling
from vapdata.step import Cell, Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class FirstFrame:
    """The first frame of a clip as raw pixels.

    What: the clip's first sampled frame, RGB, exactly as the VAE sees it.
    Reads: first.
    Writes: product `first-<H>x<W>` in `frames`: u8 (H, W, 3), with resize, pixel_height and pixel_width.
    Default: the recipe's sampling; no weights.
    Cost: none to compute; 3 bytes a pixel on disk, 1.0 MB at 480 x 720.
    Fails when: never by itself.
    Source: SSG-DiT's source image (section III-A), VAP's and FCA's image condition.
    """

    name: ClassVar[str] = "first_frame"
    reads: ClassVar[frozenset[str]] = frozenset({"first"})

    sampling: Sampling

    def products(self) -> tuple[Product, ...]:
        """The one product; its bytes depend on size and resize alone, not on the number of frames."""
        height, width = self.sampling.height, self.sampling.width
        settings = {"height": height, "width": width, "resize": self.sampling.pictures}
        return (
            Product(
                name=f"first-{height}x{width}",
                table="frames",
                model_id="pixels",
                revision="1",
                dtype="u8",
                settings=settings,
            ),
        )

    def weights(self) -> Sequence[Weight]:
        """None."""
        return ()

    def open(self, device: str | None = None) -> "OpenFirstFrame":
        """Loads nothing."""
        return OpenFirstFrame(self)


class OpenFirstFrame:
    """FirstFrame at work."""

    def __init__(self, spec: FirstFrame) -> None:
        self._sampling = spec.sampling
        self._product = spec.products()[0].name

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell for each sample."""
        return [[self._cell(sample)] for sample in samples]

    def constants(self) -> list[Cell]:
        """None."""
        return []

    def _cell(self, sample: Sample) -> Cell:
        height, width = self._sampling.height, self._sampling.width
        picture = devices.grid(sample.first, sample.clip_id, (height, width, 3))
        columns = {"resize": self._sampling.pictures, "pixel_height": height, "pixel_width": width}
        # A copy: the picture is a view of the whole clip's frames and would keep them all alive.
        return Cell(
            product=self._product, clip_id=sample.clip_id, data=picture.copy(), shape=picture.shape, columns=columns
        )
