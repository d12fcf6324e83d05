"""The image half of the CLIP that makes the masks, frozen: every token after one of its blocks.

The encoder `image_tokens` gives it pictures, `train.ssg` tensors, for a visual prompt depends on switches of the run.
Exercised by `pytest tests/vapdata/encoders/test_image_tokens.py`.
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from vapdata import weights as stores
from vapdata.weights import Weight


class ClipTower:
    """An open_clip vision transformer, in float32 and eval mode."""

    def __init__(self, weight: Weight, device: str, *, quick_gelu: bool, layer: int = -2, architecture: str | None = None) -> None:
        """`layer` as transformers counts hidden states: 1 after the first block, -1 after the last.

        On the device `meta` the shapes of `architecture` (open_clip's name) do, where it is known. Raises MissingWeights when the
        weights are wanted and not here.
        """
        import open_clip

        if device == "meta" and architecture:
            with torch.device("meta"):
                model = open_clip.CLIP(**{**open_clip.get_model_config(architecture), "quick_gelu": quick_gelu})
            model.visual.preprocess_cfg = {"mean": open_clip.OPENAI_DATASET_MEAN, "std": open_clip.OPENAI_DATASET_STD}
        else:
            model = open_clip.create_model(f"local-dir:{stores.find(weight)}", device=device, force_quick_gelu=quick_gelu)
        self.visual: Any = model.visual.eval().requires_grad_(False)
        self.width: int = self.visual.conv1.out_channels
        """Of a token."""
        depth = len(self.visual.transformer.resblocks)
        self._block = layer - 1 if layer > 0 else depth + layer  # transformers counts the embeddings as 0

    def tokens(self, pixels: Float[Tensor, "b 3 side side"]) -> Float[Tensor, "b n width"]:
        """CLS and patches of pictures that are normalised already."""
        found = self.visual.forward_intermediates(pixels, indices=[self._block], stop_early=True, intermediates_only=True, output_fmt="NLC", output_extra_tokens=True)
        return torch.cat([found["image_intermediates_prefix"][0], found["image_intermediates"][0]], dim=1)

    def squeezed(self, pictures: Float[Tensor, "b 3 height width"]) -> Float[Tensor, "b 3 side side"]:
        """RGB in 0..1, squeezed into the tower's square (bicubic with antialiasing, as PIL does) and normalised."""
        settings = self.visual.preprocess_cfg
        large = functional.interpolate(pictures, size=tuple(self.visual.image_size), mode="bicubic", antialias=True, align_corners=False)
        mean, deviation = (pictures.new_tensor(settings[name]).view(3, 1, 1) for name in ("mean", "std"))
        return (large.clamp(0, 1) - mean) / deviation
