"""What travels from the loader to a method: sides, batches, and what a method asks for.

Shapes: B micro-batch, C latent channels, T latent frames, H W latent rows and columns, M text rows, E their width, G keywords.
Exercised by `pytest tests/train/test_batch.py`.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Reads:
    """What a method wants of every clip. The index finds the products; a missing one ends the run in its first second."""

    text: bool = True
    """The caption's embedding, and the empty prompt's for dropout."""
    pooled: bool = False
    """HunyuanVideo's pooled CLIP-L text vector."""
    first: int = 0
    """Pixel frames of the first-frames latent (CogVideoX-I2V: 1; FCA: 1 or 2); 0 for none."""
    noised: int = 0
    """Latents of noised first frames that are stored per clip, of which a training step takes one as `first`; 0 for none."""
    condition: bool = False
    """The image-condition latent of Wan-I2V and HunyuanVideo's latent_concat."""
    image_tokens: str | None = None
    """`tower` of the encoder `image_tokens` whose tokens are wanted, "wan", "blip2" or "clip"; None for none."""
    words: bool = False
    """The caption's word embeddings of BLIP-2's Q-Former."""
    empty: bool = False
    """The empty prompt's embedding beside the caption's, whatever the caption."""
    masks: bool = False
    """CLIP attention, MLP and fused masks."""
    picture: bool = False
    """The lossless first frame at the product's size."""
    keywords: bool = False
    """Words of the caption that the first frame shows: where, what they look like there, and which rows of the text they are."""
    references: int = 0
    """References per target; above 0 a sample is a target of the table `pairs`."""

    def __or__(self, other: "Reads") -> "Reads":
        """What both want together. `image_tokens` may be named by one of them, or alike by both."""
        return Reads(**{each.name: getattr(self, each.name) or getattr(other, each.name) for each in fields(self)})


@dataclass(frozen=True, kw_only=True)
class Side:
    """B clips of one role, target or reference, scaled and padded by the backbone's rule. What was not asked for is None."""

    clip_ids: tuple[str, ...]
    video: Float[Tensor, "B C T H W"]
    """Clean latents, scaled."""
    text: Float[Tensor, "B M E"] | None = None
    text_mask: Bool[Tensor, "B M"] | None = None
    """True for real tokens; CogVideoX attends to padding rows too and ignores this."""
    pooled: Float[Tensor, "B P"] | None = None
    first: Float[Tensor, "B C t H W"] | None = None
    """First-frames latents, scaled as the backbone scales image latents."""
    condition: Float[Tensor, "B C F H W"] | None = None
    """Image-condition latents, scaled: F = T for Wan, 1 for HunyuanVideo. The mask channels are derived by the backbone."""
    image_tokens: Float[Tensor, "B N K"] | None = None
    words: Float[Tensor, "B R V"] | None = None
    """The caption's word embeddings, zeros below."""
    words_mask: Bool[Tensor, "B R"] | None = None
    """True for real tokens."""
    empty: Float[Tensor, "B M E"] | None = None
    """What `text` is for the empty prompt."""
    masks: Float[Tensor, "B 3 h w"] | None = None
    """Attention, MLP and fused mask, 0..1."""
    picture: UInt8[Tensor, "B 3 y x"] | None = None
    """RGB first frames."""
    shown: Bool[Tensor, " B"] | None = None
    """False for clips whose picture a method is not to see: dropout and guidance set it, no product. None: all are seen."""
    keyword_maps: Float[Tensor, "B G y x"] | None = None
    """How much each patch of the first frame resembles each keyword, -1..1. G is the most keywords of a clip here; zeros below a clip's own."""
    keyword_anchors: Float[Tensor, "B G A"] | None = None
    """What a keyword looks like in the first frame: for Wan in the space of `image_tokens`."""
    keyword_spans: Int64[Tensor, "B G 2"] | None = None
    """First and last + 1 row of `text` that a keyword is."""
    keyword_mask: Bool[Tensor, "B G"] | None = None
    """True for a clip's own keywords: none where it was given another text than its caption."""

    def without_keywords(self) -> "Side":
        """The same clips with no word of their text picked out, as when they are given another text; no tensor changes its shape."""
        return self if self.keyword_mask is None else replace(self, keyword_mask=torch.zeros_like(self.keyword_mask))

    def map(self, change: Callable[[Tensor], Tensor]) -> "Side":
        """The same side with `change` done to every tensor."""
        return replace(self, **{each.name: change(value) for each in fields(self) if isinstance(value := getattr(self, each.name), Tensor)})

    def to(self, device: torch.device) -> "Side":
        """The same side on `device`; copies from pinned memory do not wait."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


@dataclass(frozen=True, kw_only=True)
class Batch:
    """One micro-batch. Everything random about it follows from `seeds`, which know neither rank nor worker."""

    step: int
    """Optimiser step it belongs to, counted from 0."""
    target: Side
    references: tuple[Side, ...] = ()
    """References of each target, nearest to it in time last; all of one latent shape."""
    weights: Float[Tensor, " B"]
    """1, or 0 for a repeat that fills up a short last batch."""
    seeds: tuple[int, ...]
    """Per sample, 63 bits from (seed, step, slot in the global batch, clip): see `train.objective.normal`."""
    timesteps: Float[Tensor, " B"]
    """Drawn by the backbone's objective, in the units that its transformer takes."""
    noise: Float[Tensor, "B C T H W"]
    """Standard normal, for the target."""

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with `change` done to every tensor."""
        changed = {name: change(getattr(self, name)) for name in ("weights", "timesteps", "noise")}
        return replace(self, target=self.target.map(change), references=tuple(side.map(change) for side in self.references), **changed)

    def to(self, device: torch.device) -> "Batch":
        """The same batch on `device`; copies from pinned memory do not wait."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))
