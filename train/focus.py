"""Where a block's tokens are about a keyword, and what is to be added there: Focal Guidance's maths. Tensors in, tensors out.

Source: "Focal Guidance" (arXiv 2601.07287), sections 3.2 and 3.3; where its formulas cannot be followed as printed, each function says so.
Exercised by `pytest tests/train/test_focus.py`.

Shapes: B batch, G keywords (padded, with a mask), M text rows, L video tokens = T h w, D width.
"""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.nn import functional


def rows_of(spans: Int64[Tensor, "B G 2"], mask: Bool[Tensor, "B G"], rows: int) -> Bool[Tensor, "B G M"]:
    """True where a text row, one of `rows`, belongs to a keyword: all sub-tokens of its word."""
    row = torch.arange(rows, device=spans.device)
    return (row >= spans[..., :1]) & (row < spans[..., 1:]) & mask[..., None]


def keyword_values(values: Float[Tensor, "B M D"], belongs: Bool[Tensor, "B G M"]) -> Float[Tensor, "B G D"]:
    """Each keyword's value, V_k: the mean over its rows; zero for a keyword of no row."""
    share = belongs.to(values.dtype)
    return torch.matmul(share, values) / share.sum(dim=-1, keepdim=True).clamp_min(1)


def similarity(keywords: Float[Tensor, "B G D"], tokens: Float[Tensor, "B L D"]) -> Float[Tensor, "B G L"]:
    """A_k = cos(V_k, z) for every token (equation 10), in [-1, 1], at least float32; 0 for a zero vector.

    The paper's formula has no frame index while its map has: it is taken frame by frame.
    """
    exact = torch.promote_types(tokens.dtype, torch.float32)
    # Lengths are divided out of the products: a normalised copy of all tokens would be as large as they are.
    products = torch.matmul(functional.normalize(keywords.to(exact), dim=-1).to(tokens.dtype), tokens.mT).to(exact)
    lengths = torch.linalg.vector_norm(tokens, dim=-1, dtype=exact).clamp_min(torch.finfo(exact).tiny)
    return (products / lengths[:, None]).clamp(-1, 1)


def regions(maps: Float[Tensor, "B G y x"], grid: tuple[int, int, int], least: float) -> Float[Tensor, "B G L"]:
    """w_k on the tokens of latent frame 0, the reference frame's, and 0 on all others.

    A map between its least and its highest value, taken to the token grid bilinearly, and 0 below `least`: what is left is R_k. A
    constant map points nowhere and gives 0. (The paper names w_k and R_k and defines neither.)
    """
    frames, height, width = grid
    low, high = maps.amin(dim=(2, 3), keepdim=True), maps.amax(dim=(2, 3), keepdim=True)
    spread = high - low
    scaled = torch.where(spread > 0, (maps - low) / spread.clamp_min(torch.finfo(maps.dtype).tiny), torch.zeros_like(maps))
    on_tokens = functional.interpolate(scaled, size=(height, width), mode="bilinear", align_corners=False) if scaled.shape[1] else maps.new_zeros(*maps.shape[:2], height, width)
    weights = torch.where(on_tokens >= least, on_tokens, torch.zeros_like(on_tokens)).flatten(2)
    return functional.pad(weights, (0, (frames - 1) * height * width))


def above(maps: Float[Tensor, "B G L"], threshold: float) -> Float[Tensor, "B G L"]:
    """A 1[A > threshold] (equation 12, whose text has another indicator than its formula; the formula is taken). At 1 nothing is left."""
    return torch.where(maps > threshold, maps, torch.zeros_like(maps))


def spread(weights: Float[Tensor, "B G L"], values: Float[Tensor, "B G D"]) -> Float[Tensor, "B L D"]:
    """sum over k of w_k(token) V_k: what is added to each token (equations 9 and 13, which leave k free; the sum knows no order)."""
    return torch.matmul(weights.mT.to(values.dtype), values)


def on_rows(belongs: Bool[Tensor, "B G M"], values: Float[Tensor, "B G D"]) -> Float[Tensor, "B M D"]:
    """Each keyword's value on all of its rows, 0 on the others."""
    return torch.matmul(belongs.mT.to(values.dtype), values)
