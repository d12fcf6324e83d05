"""Image-encoder tokens of a clip's first frame: what an image-to-video transformer and the adapters attend to.

Exercised by `pytest tests/vapdata/encoders/test_image_tokens.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.backbones import Backbone, backbone
from vapdata.clip import Sample, Sampling
from vapdata.encoders.blip2_words import BLIP2_REPO
from vapdata.errors import CallError
from vapdata.step import Cell, Product
from vapdata.weights import Weight

Tower = Literal["wan", "blip2", "clip"]
Geometry = Literal["crop", "stretch"]

_WAN_REPO = "Wan-AI/Wan2.1-I2V-14B-480P-Diffusers"
GEOMETRY: dict[str, Geometry] = {"wan": "crop", "blip2": "stretch", "clip": "stretch"}
"""How each tower's own pipeline makes a square of the frame: diffusers' Wan crops, BLIP-2 and SSG-DiT's API squeeze."""
PRODUCT = {"wan": "clip-h14", "blip2": "blip2-g14"}
"""First part of a product's name; `clip` has the backbone's."""


@dataclass(frozen=True, kw_only=True)
class ImageTokens:
    """Every token of an image encoder for the first frame, CLS first.

    What: by `tower`. `wan`: CLIP ViT-H/14's last block but one, no norm (257, 1280). `blip2`: BLIP-2's ViT-g/14 after its final
        norm (257, 1408). `clip`: the masks' CLIP (ViT-L/14-336), last block but one, no norm (577, 1024).
    Reads: first.
    Writes: product `<tower>-tokens-<geometry>-<H>x<W>` in `features`: bf16 (tokens, width); H x W and `resize` are those of the
        frame that went in, the geometry is how it became the tower's square.
    Default: tower `wan`; its pipeline's own geometry: crop for wan (the sides are not seen), stretch for the others.
    Cost: one ViT pass; 0.66 MB (wan), 0.72 (blip2), 1.18 (clip) a clip.
    Fails when: a value is not finite.
    Source: diffusers WanImageToVideoPipeline.encode_image; transformers Blip2ForImageTextRetrieval, as FCA's frozen image
        encoder; SSG-DiT's image encoder on a frame without mask, methods.md 4.2.
    """

    name: ClassVar[str] = "image_tokens"
    reads: ClassVar[frozenset[str]] = frozenset({"first"})

    backbone: str
    sampling: Sampling
    tower: Tower = "wan"
    geometry: Geometry | None = None
    """`crop`: shortest side to the square's, middle cut out. `stretch`: squeezed. None is the tower's own."""
    layer: int | None = None
    """Hidden state as transformers counts them: 0 embeddings, -1 after the last block. None is the tower's own (above)."""
    model: str | None = None
    """Another hub id or a local folder instead of the tower's own."""
    batch: int = 16
    """Pictures at once on a GPU."""

    def __post_init__(self) -> None:
        backbone(self.backbone)
        if self.tower == "clip" and self.layer == 0:
            raise CallError("image_tokens.layer = 0: open_clip gives the states after its blocks only. Use 1 or more, or -1 or less.")

    @property
    def facts(self) -> Backbone:
        """The backbone's numbers."""
        return backbone(self.backbone)

    @property
    def shaped(self) -> Geometry:
        """How the frame becomes a square."""
        return self.geometry or GEOMETRY[self.tower]

    @property
    def variant(self) -> str:
        """The tower, and the geometry where it is not the tower's own: a recipe may want several."""
        return self.tower if self.shaped == GEOMETRY[self.tower] else f"{self.tower}-{self.shaped}"

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        encoder = self.weights()[0]
        height, width = self.sampling.height, self.sampling.width
        revision = stores.revision(encoder)
        settings = {
            "height": height,
            "width": width,
            "resize": self.sampling.pictures,
            "tower": self.tower,
            "clip_geometry": self.shaped,
            "layer": self.layer,
            "model_id": encoder.model_id,
            "revision": revision,
        }
        return (
            Product(
                name=f"{self._prefix()}-tokens-{self.shaped}-{height}x{width}",
                table="features",
                model_id=encoder.model_id,
                revision=revision,
                dtype="bf16",
                settings=settings,
            ),
        )

    def weights(self) -> Sequence[Weight]:
        """The tower's folder, and its picture processor's where that is another."""
        tiny = self.facts.tiny
        if self.tower == "clip":
            clip = self.facts.clip
            files = ("open_clip_config.json",)
            return (
                Weight(repo=self.model or clip.repo, subfolder=clip.subfolder, files=files, stem="open_clip_model", bytes=clip.bytes),
            )
        if self.tower == "blip2":
            repo = self.model or ("tiny-blip2" if tiny else BLIP2_REPO)
            files = ("config.json", "preprocessor_config.json")
            return (Weight(repo=repo, files=files, stem="model", bytes=4_700_000_000),)
        repo = self.model or ("tiny-wan" if tiny else _WAN_REPO)
        return (
            Weight(repo=repo, subfolder="image_encoder", stem="model", bytes=2_530_000_000),
            Weight(repo=repo, subfolder="image_processor", files=("preprocessor_config.json",)),
        )

    def open(self, device: str | None = None) -> "OpenImageTokens":
        """Loads the tower."""
        return OpenImageTokens(self, device)

    def _prefix(self) -> str:
        facts = self.facts
        if self.tower == "clip":
            return facts.clip.product
        return f"tiny-{PRODUCT[self.tower]}" if facts.tiny else PRODUCT[self.tower]


class OpenImageTokens:
    """ImageTokens at work."""

    def __init__(self, spec: ImageTokens, device: str | None) -> None:
        self._spec = spec
        self._product = spec.products()[0].name
        self._device = devices.pick(device)
        load = {"wan": _wan, "blip2": _blip2, "clip": _clip}[spec.tower]
        self._tokens = load(spec, self._device)

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell for each sample."""
        frames = [self._frame(sample) for sample in samples]
        return [[self._cell(sample, tokens)] for sample, tokens in zip(samples, self.tokens(frames), strict=True)]

    def constants(self) -> list[Cell]:
        """None."""
        return []

    def tokens(self, frames: Sequence[UInt8[np.ndarray, "h w 3"]]) -> list[Float32[np.ndarray, "tokens width"]]:
        """The tokens of each picture."""
        import torch
        from PIL import Image

        found: list[np.ndarray] = []
        for group in devices.groups(len(frames), self._device, self._spec.batch):
            pictures = [Image.fromarray(frame) for frame in frames[group]]
            with torch.inference_mode(), devices.out_of_memory("image_tokens", "Type: --set image_tokens.batch=1"):
                found.extend(self._tokens(pictures).float().cpu().numpy())
        return found

    def _frame(self, sample: Sample) -> np.ndarray:
        return devices.grid(sample.first, sample.clip_id, (self._spec.sampling.height, self._spec.sampling.width, 3))

    def _cell(self, sample: Sample, tokens: np.ndarray) -> Cell:
        sampling = self._spec.sampling
        columns = {"resize": sampling.pictures, "pixel_height": sampling.height, "pixel_width": sampling.width}
        data = devices.finite(tokens, self._product, sample.clip_id)
        return Cell(product=self._product, clip_id=sample.clip_id, data=data, shape=data.shape, columns=columns)


def square(processor: Any, geometry: Geometry) -> dict[str, Any]:
    """Arguments that make one of transformers' picture processors crop or stretch to its own square."""
    side = getattr(processor, "crop_size", None) or processor.size
    height, width = side["height"], side["width"]
    if geometry == "stretch":
        return {"size": {"height": height, "width": width}, "do_center_crop": False}
    return {"size": {"shortest_edge": height}, "do_center_crop": True, "crop_size": {"height": height, "width": width}}


def _wan(spec: ImageTokens, device: str) -> Callable[[list[Any]], Any]:
    """Wan's image encoder: pictures to hidden states."""
    from transformers import CLIPImageProcessor, CLIPVisionModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    encoder, processor_weight = spec.weights()
    processor = CLIPImageProcessor.from_pretrained(stores.find(processor_weight), local_files_only=True)
    model = CLIPVisionModel.from_pretrained(stores.find(encoder), dtype=devices.precision(device), use_safetensors=True, local_files_only=True)
    model = model.to(device).eval().requires_grad_(False)
    shaped = square(processor, spec.shaped)

    def tokens(pictures: list[Any]) -> Any:
        pixels = processor(images=pictures, return_tensors="pt", **shaped).pixel_values
        states = model(pixels.to(device, model.dtype), output_hidden_states=True).hidden_states
        return states[-2 if spec.layer is None else spec.layer]

    return tokens


def _blip2(spec: ImageTokens, device: str) -> Callable[[list[Any]], Any]:
    """BLIP-2's image encoder; the checkpoint is read whole, the text half let go."""
    from transformers import Blip2ForImageTextRetrieval, BlipImageProcessor, CLIPImageProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = stores.find(spec.weights()[0])
    # CLIP's processor is BLIP's with a crop that can be switched on; interpolation, mean and deviation are read from the file.
    kind = CLIPImageProcessor if spec.shaped == "crop" else BlipImageProcessor
    processor = kind.from_pretrained(folder, local_files_only=True)
    whole = Blip2ForImageTextRetrieval.from_pretrained(folder, dtype=devices.precision(device), use_safetensors=True, local_files_only=True)
    model = whole.vision_model.to(device).eval().requires_grad_(False)
    side = model.config.image_size
    shaped = {"size": {"height": side, "width": side}}
    if spec.shaped == "crop":
        shaped = {"size": {"shortest_edge": side}, "do_center_crop": True, "crop_size": {"height": side, "width": side}}

    def tokens(pictures: list[Any]) -> Any:
        pixels = processor(images=pictures, return_tensors="pt", **shaped).pixel_values
        output = model(pixels.to(device, model.dtype), output_hidden_states=spec.layer is not None)
        return output.last_hidden_state if spec.layer is None else output.hidden_states[spec.layer]

    return tokens


def _clip(spec: ImageTokens, device: str) -> Callable[[list[Any]], Any]:
    """The CLIP that makes the masks, in open_clip's format."""
    import torch
    from open_clip.transform import PreprocessCfg, image_transform_v2

    from vapdata.encoders.clip_tower import ClipTower

    quick_gelu = spec.facts.clip.quick_gelu and (spec.model is None or spec.model.endswith(".openai"))
    tower = ClipTower(spec.weights()[0], device, quick_gelu=quick_gelu, layer=-2 if spec.layer is None else spec.layer)
    resize = "squash" if spec.shaped == "stretch" else "shortest"
    picture = image_transform_v2(PreprocessCfg(**{**tower.visual.preprocess_cfg, "resize_mode": resize}), is_train=False)

    def tokens(pictures: list[Any]) -> Any:
        pixels = torch.stack([picture(one) for one in pictures]).to(device)
        with torch.autocast(device.split(":")[0], torch.bfloat16, enabled=not device.startswith("cpu")):
            return tower.tokens(pixels)

    return tokens
