"""How well a made clip shows its condition, by CLIP: whether it moves away from its source as the others of the condition do from theirs.

Exercised by `pytest tests/vapdata/conditions/test_direction.py`.
"""

import numpy as np
from jaxtyping import Float32, Float64


def agreement(made: Float32[np.ndarray, "n d"], sources: Float32[np.ndarray, "n d"]) -> Float64[np.ndarray, " n"]:
    """0 to 100 for each made clip of one condition: 100 times the cosine of its move and the sum of the others' moves, 0 where they part.

    A move is the made clip's embedding less its source's, brought to unit length: what the two pictures share, their content,
    is gone (as in StyleGAN-NADA's directional similarity, Gal et al. 2021, with other clips in place of a text). A clip that
    did not move scores 0; one without others is NaN: there is nothing to say.
    """
    moves = made.astype(np.float64) - sources
    moves /= np.maximum(np.linalg.norm(moves, axis=1, keepdims=True), 1e-9)
    others = moves.sum(axis=0) - moves
    lengths = np.linalg.norm(others, axis=1)
    cosines = (moves * others).sum(axis=1) / np.maximum(lengths, 1e-9)
    return np.full(len(made), np.nan) if len(made) < 2 else 100.0 * np.clip(cosines, 0.0, 1.0)
