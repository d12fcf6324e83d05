"""Random clips and batches for any backbone, with whatever a method may read of a clip: no models, no catalog."""

import torch
from torch import Tensor

from train.batch import Batch, Side
from train.method import Backbone
from train.objective import normal, seed_of

FRAMES, HEIGHT, WIDTH = 2, 4, 6
"""Of the latents; pictures have eight times their rows and columns."""
GRID = 6
"""Rows and columns of the masks."""


def a_side(backbone: Backbone, seed: int = 0, size: int = 2) -> Side:
    """`size` random clips with all that the backbone reads, a picture and masks. The last caption has three true tokens."""
    facts, reads = backbone.facts, backbone.reads()
    channels, rows = facts.vae.latent_channels, facts.text.rows
    given = FRAMES if facts.family == "wan" else 1

    def drawn(name: str, *shape: int) -> Tensor:
        return normal(seed, (size, *shape), name)

    return Side(
        clip_ids=tuple(f"{seed}-{place}" for place in range(size)),
        video=drawn("video", channels, FRAMES, HEIGHT, WIDTH),
        text=drawn("text", rows, facts.text.width),
        text_mask=torch.arange(rows) < torch.tensor([rows] * (size - 1) + [3])[:, None],
        pooled=drawn("pooled", 32) if reads.pooled else None,
        first=drawn("first", channels, reads.first, HEIGHT, WIDTH) if reads.first else None,
        condition=drawn("condition", channels, given, HEIGHT, WIDTH) if reads.condition else None,
        image_tokens=drawn("image tokens", 257, 64) if reads.image_tokens else None,
        masks=drawn("masks", 3, GRID, GRID).sigmoid(),
        picture=(drawn("picture", 3, 8 * HEIGHT, 8 * WIDTH).sigmoid() * 255).byte(),
    )


def a_batch(backbone: Backbone, seed: int = 0, size: int = 2, step: int = 3) -> Batch:
    """A micro-batch as the loader makes it, without references."""
    target = a_side(backbone, seed, size)
    seeds = tuple(seed_of(0, step, slot, clip) for slot, clip in enumerate(target.clip_ids))
    return Batch(
        step=step,
        target=target,
        weights=torch.ones(size),
        seeds=seeds,
        timesteps=backbone.objective.timesteps(seeds),
        noise=torch.stack([normal(seed, target.video.shape[1:]) for seed in seeds]),
    )
