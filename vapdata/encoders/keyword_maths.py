"""Which words a picture shows and where: similarity, selection and anchors of Focal Guidance.

Legend: M words, K keywords, N patches, D joint width, W width of the penultimate tokens.
Exercised by `pytest tests/vapdata/encoders/test_keyword_maths.py`.
"""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

Sign = Literal["neg", "pos"]
AnchorWeights = Literal["clamp", "raw", "softmax"]


def similarity(words: Float[Tensor, "m d"], patches: Float[Tensor, "n d"], sign: Sign = "neg") -> Float[Tensor, "m n"]:
    """S = -cos(t_m, v_n) (Focal Guidance equation 6), in [-1, 1].

    The minus is meant: CLIP's late patches resemble a text least where it speaks of them. `pos` takes it away.
    """
    cosine = functional.normalize(words, dim=-1) @ functional.normalize(patches, dim=-1).mT
    return (-cosine if sign == "neg" else cosine).clamp(-1, 1)


def threshold(peaks: Float[Tensor, " m"]) -> Float[Tensor, ""]:
    """The adaptive threshold: mean and one standard deviation (of the words at hand) of the words' highest similarities."""
    return peaks.mean() + peaks.std(correction=0)


def select(scores: Float[Tensor, "m n"], least: float | None = None, minimum: int = 1) -> Int[Tensor, " k"]:
    """Indices of the keywords, in order: words whose highest similarity exceeds `least` (None: the adaptive threshold).

    At least the `minimum` best are taken: of one or two words none exceeds their mean by more than a deviation.
    """
    if not len(scores):
        return torch.zeros(0, dtype=torch.long, device=scores.device)
    peaks = scores.amax(dim=1)
    chosen = peaks > (threshold(peaks) if least is None else least)
    best = peaks.argsort(descending=True, stable=True)[:minimum]
    chosen[best] = True
    return chosen.nonzero().flatten()


def anchors(
    scores: Float[Tensor, "k n"], tokens: Float[Tensor, "n w"], weights: AnchorWeights = "clamp", temperature: float = 0.01
) -> Float[Tensor, "k w"]:
    """Each keyword's anchor, sum over patches of weight times penultimate token (section 3.2).

    `clamp`: S less its least value, divided by the sum (a constant map weighs all patches alike). `softmax`: of S /
    temperature. `raw`: S itself, as printed, which may be negative and grows with the number of patches.
    """
    if weights == "softmax":
        weight = (scores / temperature).softmax(dim=-1)
    elif weights == "clamp":
        raised = scores - scores.amin(dim=-1, keepdim=True)
        total = raised.sum(dim=-1, keepdim=True)
        even = torch.full_like(scores, 1 / scores.shape[-1])
        weight = torch.where(total > 0, raised / total.clamp_min(torch.finfo(scores.dtype).tiny), even)
    else:
        weight = scores
    return weight @ tokens
