"""Batches of random numbers with all that Frame-wise Conditioning Adaptation reads, as the loader makes them."""

import torch
from torch import Tensor

from train.batch import Batch, Side
from train.frame_text import blip2_widths
from train.method import Backbone
from train.objective import normal

FRAMES, HEIGHT, WIDTH = 3, 4, 6
"""Latent."""
WORD_ROWS, IMAGE_TOKENS = 11, 17
"""Fewer than BLIP-2's: no number of either is built in."""


def a_side(backbone: Backbone, seed: int = 0, size: int = 2) -> Side:
    """`size` clips; the first one's caption fills its rows, each further one has a word fewer."""
    facts = backbone.facts
    words, image = blip2_widths(facts.tiny)

    def drawn(name: str, *shape: int) -> Tensor:
        return normal(seed, (size, *shape), name)

    return Side(
        clip_ids=tuple(f"{seed}-{place}" for place in range(size)),
        video=drawn("video", facts.vae.latent_channels, FRAMES, HEIGHT, WIDTH),
        text=drawn("text", facts.text.rows, facts.text.width),
        text_mask=torch.ones(size, facts.text.rows, dtype=torch.bool),
        first=drawn("first", facts.vae.latent_channels, 1, HEIGHT, WIDTH),
        image_tokens=drawn("image tokens", IMAGE_TOKENS, image),
        words=drawn("words", WORD_ROWS, words),
        words_mask=torch.arange(WORD_ROWS) < WORD_ROWS - torch.arange(size)[:, None],
        empty=drawn("empty", facts.text.rows, facts.text.width),
    )


def a_batch(backbone: Backbone, size: int = 2) -> Batch:
    """A micro-batch at timesteps from nearly clean to pure noise."""
    side = a_side(backbone, 0, size)
    return Batch(
        step=3,
        target=side,
        weights=torch.ones(size),
        seeds=tuple(range(7, 7 + size)),
        timesteps=torch.linspace(100, 999, size).floor(),
        noise=normal(9, side.video.shape),
    )
