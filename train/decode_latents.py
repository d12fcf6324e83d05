"""From latents back to frames: the backbone's own VAE, its scaling undone.

The inverse of what the catalog stores and the loader scales: z = video / scaling_factor * std + mean, then the VAE's
decoder. Exercised by `pytest tests/train/test_denoise.py`.

Shapes: B batch, C T H W latents, t h w frames.
"""

import diffusers
import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from vapdata import device as devices
from vapdata import weights
from vapdata.backbones import Backbone, VaeFacts
from vapdata.clip import Sampling
from vapdata.encoders.vae import estimated_gb
from vapdata.encoders.vae_first import VaeFirst
from vapdata.weights import Weight

TILE_ABOVE_GB = VaeFirst.tile_above_gb
"""Decode in overlapping tiles where encoding does: the decoder works on the same activations in reverse."""


class Decoder:
    """A VAE at work, latents to frames; precise as the encoder in vapdata/encoders/vae.py."""

    def __init__(self, facts: Backbone, device: torch.device) -> None:
        """Loads the VAE. Raises MissingWeights when it is not on this machine."""
        vae = facts.vae
        self._facts = facts
        self._device = device
        self._dtype = torch.float32 if vae.precision == "f32" else devices.precision(device.type)
        model = getattr(diffusers, vae.model_class).from_pretrained(weights.find(weight(facts)), torch_dtype=self._dtype, use_safetensors=True, local_files_only=True)
        self._model = model.to(device).eval().requires_grad_(False)

    def frames(self, video: Float[Tensor, "B C T H W"]) -> list[UInt8[np.ndarray, "t h w 3"]]:
        """RGB frames of each of B scaled latents, decoded one by one: a clip fills a GPU."""
        return [self._decode(one) for one in video.split(1)]

    def _decode(self, video: Float[Tensor, "1 C T H W"]) -> UInt8[np.ndarray, "t h w 3"]:
        vae = self._facts.vae
        height, width = (side * vae.spatial_stride for side in video.shape[-2:])
        if estimated_gb(vae, height, width) > TILE_ABOVE_GB:
            self._model.enable_tiling()
        raw = unscaled(video.to(self._device).float(), vae).to(self._dtype)
        with torch.inference_mode(), torch.autocast(self._device.type, enabled=False), devices.out_of_memory("decoding", "Sample fewer or smaller clips, or use --device cpu"):
            pixels = self._model.decode(raw, return_dict=False)[0]
        return to_uint8(pixels)[0].numpy()


def weight(facts: Backbone) -> Weight:
    """The VAE's folder, as the encoders look it up."""
    sampling = Sampling(frames=1, height=facts.height, width=facts.width, fps=facts.fps)
    return VaeFirst(backbone=facts.name, sampling=sampling).weights()[0]


def unscaled(video: Float[Tensor, "B C T H W"], vae: VaeFacts) -> Float[Tensor, "B C T H W"]:
    """Raw latents of scaled ones: video / scaling_factor * std + mean, channel by channel."""
    raw = 1 / vae.scaling_factor * video  # as diffusers writes it, to the last bit
    if vae.std:
        raw = raw * video.new_tensor(vae.std).view(1, -1, 1, 1, 1)
    return raw + video.new_tensor(vae.mean).view(1, -1, 1, 1, 1) if vae.mean else raw


def to_uint8(pixels: Float[Tensor, "B 3 t h w"]) -> UInt8[Tensor, "B t h w 3"]:
    """-1 to 1, clamped, to 0 to 255, rounded as diffusers' VideoProcessor does; on the CPU, frames first."""
    levels = (pixels.float() * 0.5 + 0.5).clamp(0, 1) * 255
    return levels.round().to(torch.uint8).permute(0, 2, 3, 4, 1).contiguous().cpu()
