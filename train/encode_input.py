"""An image and a prompt of one's own, as a method is given a clip: encoded with the backbone's own VAE and text encoder.

What the catalog holds was made by the same classes, and is rounded alike. Exercised by `pytest tests/train/test_sample.py`.
"""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor

from train.batch import Reads, Side
from train.sides import scale_into
from vapdata.backbones import Backbone
from vapdata.clip import Caption, Sample, Sampling
from vapdata.encoders import ENCODERS
from vapdata.encoders.clip_mask import ClipMask
from vapdata.encoders.vae_first import VaeFirst
from vapdata.errors import CallError
from vapdata.registry import load

TEXT_ENCODERS: Mapping[str, str] = {"cogvideox": "t5", "wan": "umt5"}
"""Family of a backbone -> the encoder of its prompts."""
ENCODED = frozenset({"text", "first", "masks", "picture", "references"})
"""What of `Reads` can be made here, or does not concern the target."""


def encode_input(facts: Backbone, reads: Reads, image: UInt8[np.ndarray, "h w 3"], prompt: str, *, like: tuple[int, ...], device: torch.device) -> Side:
    """The target side of one sample, its latents to be made: `like` is their shape, (1, C, T, H, W).

    `image` is on the product's grid already, see `fitted`. Raises CallError when method or backbone reads more of a
    clip than image and prompt say, MissingWeights when an encoder is not on this machine.
    """
    more = [each.name for each in fields(reads) if each.name not in ENCODED and getattr(reads, each.name)]
    if more or reads.first > 1 or facts.family not in TEXT_ENCODERS:
        what = ", ".join(more) or (f"{reads.first} first frames" if reads.first > 1 else f"text of the family {facts.family}")
        raise CallError(f"--image, --prompt: this run also reads {what}, which is not encoded here. Sample clips of the catalog instead: --pairs 4")
    text, mask = _text(facts, prompt, device)
    return Side(
        clip_ids=("input",),
        video=torch.zeros(like),
        text=text,
        text_mask=mask,
        first=_first(facts, image, device) if reads.first else None,
        masks=_masks(facts, image, prompt, device) if reads.masks else None,
        picture=torch.from_numpy(image).permute(2, 0, 1)[None].contiguous() if reads.picture else None,
    )


def opened(path: Path) -> UInt8[np.ndarray, "h w 3"]:
    """The picture in `path`, RGB, turned as its metadata says. Raises CallError when there is none."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB")).copy()
    except FileNotFoundError as error:
        raise CallError(f"--image {path}: there is no such file. Name a PNG, JPEG or WebP picture") from error
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError) as error:
        raise CallError(f"--image {path}: cannot be read as a picture. Name a PNG, JPEG or WebP picture") from error


def fitted(image: UInt8[np.ndarray, "h w 3"], height: int, width: int, resize: Literal["stretch", "crop"]) -> UInt8[np.ndarray, "y x 3"]:
    """`image` on the grid of height x width pixels, bicubic: squeezed into it, or scaled to cover it and cut, as clips were."""
    from PIL import Image

    rows, columns = image.shape[:2]
    scale = max(height / rows, width / columns)
    size = (height, width) if resize == "stretch" else (max(height, round(rows * scale)), max(width, round(columns * scale)))
    scaled = np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return np.ascontiguousarray(scaled[top : top + height, left : left + width])


def _first(facts: Backbone, image: np.ndarray, device: torch.device) -> Tensor:
    """The image's latent, scaled as image latents are."""
    cell = VaeFirst(backbone=facts.name, sampling=_still(facts, image)).open(str(device)).encode([Sample(clip_id="input", frames=image[None])])[0][0]
    raw = _as_stored(np.asarray(cell.data))
    scaled = torch.empty(1, *raw.shape)
    scale_into(scaled[0], raw, facts.vae, facts.vae.image_scaling_factor)
    return scaled


def _masks(facts: Backbone, image: np.ndarray, prompt: str, device: torch.device) -> Tensor:
    """Where CLIP sees the prompt in the image, by the encoder's default settings; all zeros where it sees nothing."""
    encoder = ClipMask(backbone=facts.name, sampling=_still(facts, image)).open(str(device))
    caption = Caption(text=prompt, captioner="input", role="source")
    cell = encoder.encode([Sample(clip_id="input", frames=image[None], caption=caption)])[0][0]
    return torch.from_numpy(np.asarray(cell.data))[None]


def _still(facts: Backbone, image: np.ndarray) -> Sampling:
    """The image's own grid, one frame."""
    return Sampling(frames=1, height=image.shape[0], width=image.shape[1], fps=facts.fps)


def _text(facts: Backbone, prompt: str, device: torch.device) -> tuple[Tensor, Tensor]:
    """The prompt's rows, zeros below where padding is not kept, and which of them are true tokens."""
    name = TEXT_ENCODERS[facts.family]
    encoder = load(ENCODERS, name, "encoder")(backbone=facts.name).open(str(device))
    cell = encoder.encode([Sample(clip_id="input", caption=Caption(text=prompt, captioner="input", role="source"))])[0][0]
    rows = _as_stored(np.asarray(cell.data))
    text = rows.new_zeros(1, facts.text.rows, rows.shape[1])
    text[0, : len(rows)] = rows
    return text, torch.arange(facts.text.rows)[None] < cell.columns["length"]


def _as_stored(array: np.ndarray) -> Tensor:
    """float32 rounded to bf16 and back, as it would have come from the catalog."""
    return torch.from_numpy(array).bfloat16().float()
