"""Frame-wise text conditioning (FTC): a caption and the first frame become text of each latent frame's own.

One layer in BLIP-2's order: learnable queries and the caption's words attend to each other, the queries then read the
first frame's ViT tokens, then a feed-forward network. The queries of all frames lie one frame after another, so that row
q n + j belongs to frame q. Exercised by `pytest tests/train/test_fca_maths.py`.

Source: "Frame-wise Conditioning Adaptation for Fine-Tuning Diffusion Models in Text-to-Video Prediction" (2025); widths and
heads are not told there, ours are BERT base's.
Shapes: B batch, F latent frames, n queries of a frame, R word rows, V their width, P image tokens, I their width, W width
within, D the transformer's width.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from vapdata.errors import CallError

HEAD_WIDTH = 64
"""BERT's; a width below it is one head."""
FEED_FORWARD = 4
"""Hidden width of the feed-forward network, in widths: BERT's."""
EPS = 1e-12
"""Of the layer norms: BERT's."""


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """What decides the weights of one `FrameText`."""

    frames: int
    """Latent frames."""
    per_frame: int
    """Queries of a frame."""
    width: int
    """W."""
    words: int
    """V."""
    image: int
    """I."""
    out: int
    """D."""
    layers: int = 1

    @property
    def queries(self) -> int:
        """Of all frames."""
        return self.frames * self.per_frame


def blip2_widths(tiny: bool) -> tuple[int, int]:
    """(V, I) of BLIP-2's words and ViT-g tokens, or of the tiny BLIP-2's."""
    return (32, 88) if tiny else (768, 1408)


class FrameText(nn.Module):
    """Queries, layers, and a projection to the transformer's width where that is another."""

    def __init__(self, sizes: Sizes, device: torch.device) -> None:
        super().__init__()
        self.sizes = sizes
        made = {"device": device, "dtype": torch.float32}
        self.queries = nn.Parameter(torch.empty(sizes.queries, sizes.width, **made))
        nn.init.normal_(self.queries, std=0.02)
        self.words = nn.Identity() if sizes.words == sizes.width else nn.Linear(sizes.words, sizes.width, **made)
        self.layers = nn.ModuleList(_Layer(sizes.width, sizes.image, made) for _ in range(sizes.layers))
        self.out = nn.Identity() if sizes.out == sizes.width else nn.Linear(sizes.width, sizes.out, **made)

    def forward(self, words: Float[Tensor, "B R V"], words_mask: Bool[Tensor, "B R"], image: Float[Tensor, "B P I"]) -> Float[Tensor, "B F n D"]:
        """Text of each frame; padding among the words is seen by nobody. Raises CallError for words or tokens of other widths."""
        sizes = self.sizes
        if (words.shape[2], image.shape[2]) != (sizes.words, sizes.image):
            raise CallError(
                f"frame-wise text: the caption's words are {words.shape[2]} wide and the image tokens {image.shape[2]}; wanted {sizes.words} and {sizes.image}, "
                "those of BLIP-2 for this backbone. Build them with a recipe of this backbone: vapdata recipes"
            )
        queries = self.queries.expand(len(words), -1, -1)
        told, mask = self.words(words), torch.cat([words_mask.new_ones(len(words), sizes.queries), words_mask], dim=1)
        for layer in self.layers:
            queries, told = layer(queries, told, mask, image)
        return self.out(queries).unflatten(1, (sizes.frames, sizes.per_frame))


class _Layer(nn.Module):
    """Self-attention of queries and words, cross-attention of the queries, feed-forward of the queries; residual and norm after each."""

    def __init__(self, width: int, image: int, made: dict[str, object]) -> None:
        super().__init__()
        self.attend, self.look = _Attention(width, width, made), _Attention(width, image, made)
        self.feed = nn.Sequential(nn.Linear(width, FEED_FORWARD * width, **made), nn.GELU(), nn.Linear(FEED_FORWARD * width, width, **made))
        self.norms = nn.ModuleList(nn.LayerNorm(width, eps=EPS, **made) for _ in range(3))

    def forward(self, queries: Tensor, words: Tensor, mask: Tensor, image: Tensor) -> tuple[Tensor, Tensor]:
        """The queries after the layer, and the words after its self-attention: read by a further layer alone."""
        both = torch.cat([queries, words.to(queries)], dim=1)
        both = self.norms[0](both + self.attend(both, both, mask[:, None, None, :]))
        queries, words = both[:, : queries.shape[1]], both[:, queries.shape[1] :]
        queries = self.norms[1](queries + self.look(queries, image, None))
        return self.norms[2](queries + self.feed(queries)), words


class _Attention(nn.Module):
    """Multi-head attention with keys and values of a width of their own."""

    def __init__(self, width: int, read: int, made: dict[str, object]) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD_WIDTH)
        self.to_q, self.to_k, self.to_v = nn.Linear(width, width, **made), nn.Linear(read, width, **made), nn.Linear(read, width, **made)
        self.to_out = nn.Linear(width, width, **made)

    def forward(self, asking: Float[Tensor, "B Q W"], answering: Float[Tensor, "B K _"], mask: Bool[Tensor, "B 1 1 K"] | None) -> Float[Tensor, "B Q W"]:
        made = (self.to_q(asking), self.to_k(answering), self.to_v(answering))
        query, key, value = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in made)
        return self.to_out(nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask).transpose(1, 2).flatten(2))


class FrameNorm(nn.Module):
    """Normalisation of the frames' text before an attention reads it: LN(y), with (1 + scale(t)) and shift(t) when `adaptive`.

    scale and shift are one linear layer of silu(time vector), as in the transformer's own norms; it begins at zero, so both kinds begin alike.
    """

    def __init__(self, width: int, time: int, *, adaptive: bool, device: torch.device) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=1e-5, device=device, dtype=torch.float32)
        self.modulate = nn.Linear(time, 2 * width, device=device, dtype=torch.float32) if adaptive else None
        if self.modulate is not None:
            nn.init.zeros_(self.modulate.weight)
            nn.init.zeros_(self.modulate.bias)

    def forward(self, frames: Float[Tensor, "B F n D"], time: Float[Tensor, "B E"]) -> Float[Tensor, "B F n D"]:
        """The same text, normalised row by row."""
        normed = self.norm(frames)
        if self.modulate is None:
            return normed
        scale, shift = self.modulate(nn.functional.silu(time.to(self.modulate.weight.dtype)))[:, None, None].chunk(2, dim=-1)
        return normed * (1 + scale) + shift


class Refinement(nn.Module):
    """What a block makes of text that all blocks share: y + W LN(y), W zero at first."""

    def __init__(self, width: int, device: torch.device) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, device=device, dtype=torch.float32)
        self.linear = nn.Linear(width, width, device=device, dtype=torch.float32)
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, frames: Float[Tensor, "B F n D"]) -> Float[Tensor, "B F n D"]:
        """The same text, refined."""
        return frames + self.linear(self.norm(frames))
