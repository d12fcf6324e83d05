"""Attention of a method's own beside a frozen block's: queries of the block's rows, keys and values of what the method brings.

Frame-wise Conditioning Adaptation adds its output, times a scale that learns, to the frozen attention's before the
gate. Pure tensors; CogVideoX's layout, text in front of the video. Exercised by `pytest tests/train/test_fca_maths.py`.

Shapes: B batch, h heads, d head dim, D width, M text rows, L video tokens, S = M + L, F latent frames, N video tokens of a
frame, n condition rows of a frame, I rows of the initial frame, K = M + I + F n keys.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train.backbones.cogvideox import heads_apart, turned

Table = tuple[Tensor, Tensor]
"""cos and sin of rotary positions."""


class ParallelAttention(nn.Module):
    """scale * softmax(Q K^T / sqrt(d) + M) V W_O with Q = X W_Q of the block's normed rows, K and V of [caption ; initial frame ; frames' conditions]."""

    def __init__(self, like: nn.Module, *, copied: bool, zero_out: bool, scale: float, scale_learns: bool) -> None:
        """Projections and norms of `like`'s sizes (a CogVideoX attention): with its weights when `copied`, else drawn anew."""
        super().__init__()
        self.heads: int = like.heads
        device = like.to_q.weight.device
        self.to_q, self.to_k, self.to_v, self.to_out = (_linear(each, device, copied) for each in (like.to_q, like.to_k, like.to_v, like.to_out[0]))
        self.norm_q, self.norm_k = (_norm(each, device, copied) for each in (like.norm_q, like.norm_k))
        if zero_out:
            nn.init.zeros_(self.to_out.weight)
            nn.init.zeros_(self.to_out.bias)
        self.scale = nn.Parameter(torch.full((1,), scale, device=device), requires_grad=scale_learns)

    def forward(
        self,
        rows: Float[Tensor, "B S D"],
        text_rows: int,
        rotary: Table | None,
        initial: Float[Tensor, "B I D"] | None,
        initial_rotary: Table | None,
        frames: Float[Tensor, "B F n D"] | None,
        mask: Bool[Tensor, "S K"] | None,
    ) -> Float[Tensor, "B S D"]:
        """What is added to the frozen attention's output. Caption and conditions have no position, as text has none in these blocks."""
        parts = [rows[:, :text_rows], *([] if initial is None else [initial]), *([] if frames is None else [frames.flatten(1, 2).to(rows)])]
        query, key, value = heads_apart(self.to_q(rows), self.heads), *(self._keys(each, parts) for each in (self.to_k, self.to_v))
        query, key = self.norm_q(query), self.norm_k(key)
        if rotary is not None:
            query = turned(query, rotary, text_rows)
        if initial is not None and initial_rotary is not None:
            seen = text_rows + initial.shape[1]
            key = torch.cat([turned(key[:, :, :seen], initial_rotary, text_rows), key[:, :, seen:]], dim=2)
        attended = nn.functional.scaled_dot_product_attention(query, key.to(query.dtype), value.to(query.dtype), attn_mask=mask)
        return self.scale * self.to_out(attended.transpose(1, 2).flatten(2))

    def _keys(self, project: nn.Module, parts: list[Tensor]) -> Tensor:
        return heads_apart(project(torch.cat(parts, dim=1)), self.heads)


def frame_mask(*, text: int, grid: tuple[int, int, int], initial: int, per_frame: int, text_sees_frames: bool = False, device: torch.device) -> Bool[Tensor, "S K"]:
    """Which of [caption ; initial frame ; frames' conditions] each of [text ; video] may attend to: the identity over frames.

    A video token of frame p sees the caption, the initial frame, and the conditions of frame p alone. Text rows see none of
    the frames' conditions, for they would carry them from one frame to another in the next block; all when `text_sees_frames`.
    """
    frames, tokens = grid[0], grid[1] * grid[2]
    own = torch.eye(frames, dtype=torch.bool, device=device).repeat_interleave(tokens, dim=0).repeat_interleave(per_frame, dim=1)
    of_text = torch.full((text, frames * per_frame), text_sees_frames, dtype=torch.bool, device=device)
    everyone = torch.ones(text + frames * tokens, text + initial, dtype=torch.bool, device=device)
    return torch.cat([everyone, torch.cat([of_text, own])], dim=1)


def _linear(like: nn.Module, device: torch.device, copied: bool) -> nn.Linear:
    made = nn.Linear(like.in_features, like.out_features, bias=like.bias is not None, device=device, dtype=torch.float32)
    if copied:
        made.load_state_dict(like.state_dict())
    return made


def _norm(like: nn.Module | None, device: torch.device, copied: bool) -> nn.Module:
    """LayerNorm over a head, as CogVideoX's queries and keys have."""
    if like is None:
        return nn.Identity()
    made = nn.LayerNorm(like.normalized_shape, eps=like.eps, device=device, dtype=torch.float32)
    if copied:
        made.load_state_dict(like.state_dict())
    return made
