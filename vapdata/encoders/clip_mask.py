"""Where in the first frame CLIP sees what the caption says: SSG-DiT's first stage, as three grids.

Exercised by `pytest tests/vapdata/encoders/test_clip_mask.py`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.backbones import Backbone, backbone
from vapdata.clip import Sample, Sampling
from vapdata.errors import CallError
from vapdata.step import Cell, Product
from vapdata.weights import Weight

GRIDS = ("attention", "mlp", "fused")
"""Order of the three grids in a stored mask."""
LONGEST = 8192
"""Characters of a caption that are tokenised: far more than 77 tokens, and open_clip's merging of one word without spaces
takes quadratic time (measured: 1 s for 4096 letters, 8 s for 16384)."""


@dataclass(frozen=True, kw_only=True)
class ClipMask:
    """Attention, MLP and fused masks of the first frame for the caption.

    What: per-patch scores <feature, text> of CLIP's penultimate block. Attention contributions: min-max, contrast
        sigmoid(5 z), 3 x 3 mean. MLP features: inverse min-max, 3 x 3 mean. Fused: a + b - ab, min-max. (The tiny CLIP's: of its
        first block, without the mean.)
    Reads: first, caption.
    Writes: product `<clip>-mask-<H>x<W>` in `masks`: f32 (3, rows, columns) in [0, 1], order attention, mlp, fused;
        column text_truncated. A clip without caption gets no row.
    Default: ViT-L/14-336 of OpenAI, block -2, the whole picture squeezed into CLIP's square.
    Cost: one CLIP pass; 7 KB a clip at 24 x 24.
    Fails when: a value is not finite.
    Source: SSG-DiT (arXiv 2508.17062) section III-A; API (Yu et al. 2024), whose CLIP code it follows; methods.md 4.1, 4.3.
    """

    name: ClassVar[str] = "clip_mask"
    reads: ClassVar[frozenset[str]] = frozenset({"first", "caption"})

    backbone: str
    sampling: Sampling
    model: str | None = None
    """Another hub id or a local folder in open_clip's format instead of the backbone's own."""
    image_size: int | None = None
    """Side of CLIP's square in pixels (224, 336); None is the model's own, another interpolates its positions."""
    layer: int | None = None
    """Block, 0-based, negative from the last. None: the model's own, -2 for ViT-L, which is 22 of 24 (API's command line; -1 is its function default)."""
    mlp_feature: Literal["output", "branch"] = "output"
    """The residual stream after the block (API's code), or what the block's MLP adds alone (SSG-DiT's words)."""
    mlp_inverse: bool = True
    """Late patches resemble the text least where it speaks of them; False keeps the sign."""
    coefficient: float = 5.0
    """Contrast: 5 on API's command line, 10 in its function."""
    kernel: int | None = None
    """Side of the mean filter, odd; 1 switches it off. None: the model's own, 3 for ViT-L."""
    geometry: Literal["stretch", "crop"] = "stretch"
    """How the frame becomes a square: squeezed, so that all of it is seen, or its middle cut out (the rest is unseen)."""
    long_caption: Literal["first_sentence", "cut"] = "first_sentence"
    """A caption longer than the text tower reads: its first sentence goes in, or as many tokens as fit."""
    batch: int = 16
    """Pictures at once on a GPU."""

    def __post_init__(self) -> None:
        backbone(self.backbone)
        if self.kernel is not None and (self.kernel < 1 or self.kernel % 2 == 0):
            raise CallError(f"clip_mask.kernel = {self.kernel}: wanted an odd number, 1 or more. Use 3.")
        if self.coefficient <= 0:
            raise CallError(f"clip_mask.coefficient = {self.coefficient}: wanted more than 0. Use 5.")

    @property
    def facts(self) -> Backbone:
        """The backbone's numbers."""
        return backbone(self.backbone)

    @property
    def block(self) -> int:
        """The block that masks are made from."""
        return self.facts.clip.mask_layer if self.layer is None else self.layer

    @property
    def side(self) -> int:
        """Side of the mean filter."""
        return self.facts.clip.mask_kernel if self.kernel is None else self.kernel

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        weight = self.weights()[0]
        revision = stores.revision(weight)
        settings = {
            "height": self.sampling.height,
            "width": self.sampling.width,
            "resize": self.sampling.pictures,
            "model_id": weight.model_id,
            "revision": revision,
            "image_size": self.image_size,
            "layer": self.block,
            "mlp_feature": self.mlp_feature,
            "mlp_inverse": self.mlp_inverse,
            "coefficient": float(self.coefficient),
            "kernel": self.side,
            "geometry": self.geometry,
            "long_caption": self.long_caption,
            "grids": list(GRIDS),
        }
        return (
            Product(
                name=f"{self.facts.clip.product}-mask-{self.sampling.height}x{self.sampling.width}",
                table="masks",
                model_id=weight.model_id,
                revision=revision,
                dtype="f32",
                settings=settings,
                reads_caption=True,
                without_caption="none",
            ),
        )

    def weights(self) -> Sequence[Weight]:
        """CLIP's folder."""
        clip = self.facts.clip
        return (
            Weight(
                repo=self.model or clip.repo,
                subfolder=clip.subfolder,
                files=("open_clip_config.json",),
                stem="open_clip_model",
                bytes=clip.bytes,
            ),
        )

    def open(self, device: str | None = None) -> "OpenClipMask":
        """Loads CLIP."""
        return OpenClipMask(self, device)


class OpenClipMask:
    """ClipMask at work."""

    def __init__(self, spec: ClipMask, device: str | None) -> None:
        import open_clip
        from open_clip.transform import PreprocessCfg, image_transform_v2

        from vapdata.encoders import clip_features

        weight = spec.weights()[0]
        name = f"local-dir:{stores.find(weight)}"
        self._spec = spec
        self._product = spec.products()[0].name
        self._device = devices.pick(device)
        self._model = open_clip.create_model(
            name,
            device=self._device,
            force_quick_gelu=spec.facts.clip.quick_gelu and (spec.model is None or spec.model.endswith(".openai")),
            force_image_size=spec.image_size,
        )
        self._model.eval().requires_grad_(False)
        self._visual = clip_features.check(self._model.visual, spec.block, weight.model_id)
        self._tokenizer = open_clip.get_tokenizer(name)
        settings = dict(self._visual.preprocess_cfg)
        settings["resize_mode"] = "squash" if spec.geometry == "stretch" else "shortest"
        self._picture = image_transform_v2(PreprocessCfg(**settings), is_train=False)

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell for each sample with a caption, none for the others."""
        named = [(index, sample) for index, sample in enumerate(samples) if sample.caption is not None]
        cells: list[list[Cell]] = [[] for _ in samples]
        for group in devices.groups(len(named), self._device, self._spec.batch):
            some = [sample for _, sample in named[group]]
            texts = [self.prompt(sample.caption.text) for sample in some if sample.caption]
            masks = self.masks([self._frame(sample) for sample in some], [text for text, _ in texts])
            for (index, sample), mask, (_, truncated) in zip(named[group], masks, texts, strict=True):
                cells[index].append(self._cell(sample, mask, truncated))
        return cells

    def constants(self) -> list[Cell]:
        """None."""
        return []

    def masks(
        self, frames: Sequence[UInt8[np.ndarray, "h w 3"]], texts: Sequence[str]
    ) -> Float32[np.ndarray, "b 3 gh gw"]:
        """The three grids of each picture for its text."""
        import torch
        from PIL import Image

        from vapdata.encoders import clip_features

        pictures = torch.stack([self._picture(Image.fromarray(frame)) for frame in frames]).to(self._device)
        tokens = self._tokenizer(list(texts)).to(self._device)
        with torch.inference_mode(), devices.out_of_memory("clip_mask", "Type: --set clip_mask.batch=1"):
            # Weights stay float32: only the towers' products run in bf16, sums and scores do not.
            with torch.autocast(self._device.split(":")[0], torch.bfloat16, enabled=self._device != "cpu"):
                text = self._model.encode_text(tokens, normalize=True)
                with_features = clip_features.patch_features(
                    self._visual, pictures, self._spec.block, self._spec.mlp_feature
                )
            return self._grids(with_features, text.float()).cpu().numpy()

    def prompt(self, caption: str) -> tuple[str, bool]:
        """The text that goes in, and whether the caption had more tokens than the tower reads."""
        text = caption[:LONGEST].encode("utf-8", "replace").decode("utf-8")
        if self._tokens(text) <= self._tokenizer.context_length:
            return text, False
        return (first_sentence(text) if self._spec.long_caption == "first_sentence" else text), True

    def _grids(self, features: Any, text: Any) -> Any:
        import torch

        from vapdata.encoders import mask_maths

        shape = (-1, *self._visual.grid_size)
        scores = [torch.einsum("bpd,bd->bp", part, text).reshape(shape) for part in (features.attention, features.mlp)]
        attention = mask_maths.attention_mask(scores[0], self._spec.coefficient, self._spec.side)
        mlp = mask_maths.mlp_mask(scores[1], self._spec.side, inverse=self._spec.mlp_inverse)
        fused = mask_maths.minmax(mask_maths.fuse(attention, mlp))
        return torch.stack([attention, mlp, fused], dim=1)

    def _tokens(self, text: str) -> int:
        """Tokens of the whole text, start and end marks included."""
        if hasattr(self._tokenizer, "tokenizer"):
            return len(self._tokenizer.tokenizer(text, truncation=False, verbose=False).input_ids)
        return len(self._tokenizer.encode(text)) + 2

    def _frame(self, sample: Sample) -> np.ndarray:
        size = (self._spec.sampling.height, self._spec.sampling.width, 3)
        return devices.grid(sample.first, sample.clip_id, size)

    def _cell(self, sample: Sample, mask: np.ndarray, truncated: bool) -> Cell:
        sampling = self._spec.sampling
        columns = {
            "resize": sampling.pictures,
            "pixel_height": sampling.height,
            "pixel_width": sampling.width,
            "text_truncated": truncated,
        }
        data = devices.finite(mask, self._product, sample.clip_id)
        return Cell(
            product=self._product,
            clip_id=sample.clip_id,
            data=data,
            shape=data.shape,
            caption=sample.caption,
            columns=columns,
        )


def first_sentence(text: str) -> str:
    """`text` up to the first full stop, question or exclamation mark that ends a word; all of it when there is none."""
    return re.split(r"(?<=[.!?。！？])(?:\s|$)|(?<=[。！？])", text.strip(), maxsplit=1)[0]
