"""Image encoders that learn: a picture to tokens as wide as a backbone's blocks.

Two kinds. A frozen CLIP with a head that learns: every token through a small network, or a few learned queries that
read them all (IP-Adapter's, from diffusers). Or a small vision transformer that learns from the pixels on. The frozen
tower is held unregistered, so that state and exports hold what learns and nothing else.
Exercised by `pytest tests/train/test_ssg.py`.

Shapes: B pictures, N tokens, D width of the backbone's blocks.
"""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from vapdata.backbones import Backbone
from vapdata.clip import Sampling
from vapdata.encoders.clip_tower import ClipTower
from vapdata.encoders.image_tokens import ImageTokens

HEAD_DIM = 64
"""Channels of an attention head, in the queries' head and in the patch encoder."""
DEPTH = 4
"""Blocks of the queries' head, as IP-Adapter Plus has them."""


class ClipEncoder(nn.Module):
    """The CLIP that makes the masks, frozen, its last block but one, and a head that learns."""

    def __init__(self, facts: Backbone, width: int, *, head: Literal["mlp", "resampler"], queries: int, device: torch.device) -> None:
        """`queries` are the resampler's. Raises MissingWeights when CLIP is not on this machine."""
        super().__init__()
        from diffusers.models.embeddings import IPAdapterFullImageProjection, IPAdapterPlusImageProjection

        weight = ImageTokens(backbone=facts.name, sampling=Sampling(frames=1, height=facts.height, width=facts.width, fps=facts.fps), tower="clip").weights()[0]
        self._tower = (ClipTower(weight, str(device), quick_gelu=facts.clip.quick_gelu, architecture=facts.clip.architecture),)
        inner = self._tower[0].width
        if head == "mlp":
            made: nn.Module = nn.Sequential(nn.LayerNorm(inner), IPAdapterFullImageProjection(inner, width))
        else:
            shape = {"heads": max(1, inner // HEAD_DIM), "dim_head": min(inner, HEAD_DIM), "num_queries": queries}
            made = IPAdapterPlusImageProjection(embed_dims=inner, output_dims=width, hidden_dims=inner, depth=DEPTH, **shape)
        self.head = made.to(device)

    @property
    def beside(self) -> nn.Module:
        """The frozen tower."""
        return self._tower[0].visual  # type: ignore[no-any-return]

    def forward(self, pictures: Float[Tensor, "B 3 y x"]) -> Float[Tensor, "B N D"]:
        """Tokens of RGB pictures in 0..1: as many as CLIP has, or as there are queries."""
        tower = self._tower[0]
        with torch.no_grad():
            tokens = tower.tokens(tower.squeezed(pictures))
        made: Tensor = self.head(tokens)
        return made


class PatchEncoder(nn.Module):
    """A vision transformer that learns: patches by a convolution, fixed sine positions, `depth` blocks."""

    def __init__(self, width: int, *, side: int, patch: int, inner: int, depth: int, device: torch.device) -> None:
        """Pictures are brought to `side` pixels on their shorter side, in whole patches of `patch`; `inner` is the blocks' width."""
        super().__init__()
        self._side, self._patch = side, patch
        self.patches = nn.Conv2d(3, inner, patch, stride=patch)
        layer = nn.TransformerEncoderLayer(inner, max(1, inner // HEAD_DIM), 4 * inner, dropout=0.0, activation="gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, depth, norm=nn.LayerNorm(inner), enable_nested_tensor=False)
        self.out = nn.Sequential(nn.Linear(inner, width), nn.LayerNorm(width))
        self.to(device)

    def forward(self, pictures: Float[Tensor, "B 3 y x"]) -> Float[Tensor, "B N D"]:
        """One token for each patch of RGB pictures in 0..1, row by row."""
        from diffusers.models.embeddings import get_2d_sincos_pos_embed

        size = self.grid(*pictures.shape[2:])
        small = functional.interpolate(pictures, size=tuple(self._patch * count for count in size), mode="bicubic", antialias=True, align_corners=False)
        patches = self.patches(2 * small - 1)
        places = get_2d_sincos_pos_embed(patches.shape[1], size, device=patches.device)
        tokens = patches.flatten(2).transpose(1, 2) + places.to(patches.dtype)
        made: Tensor = self.out(self.blocks(tokens))
        return made

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for a picture of this size; 14 x 24 for 480 x 832 at side 224 and patch 16."""
        scale = self._side / min(height, width) / self._patch
        return max(1, round(height * scale)), max(1, round(width * scale))
