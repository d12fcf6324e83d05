"""How the target's stream and the references' meet in one block. Pure: streams in, streams out.

The forms are Video-As-Prompt's and its ablations'. Exercised by `pytest tests/train/test_vap_maths.py`.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn

from train.method import AttentionInputs, Backbone, Stream, attention, run_block
from vapdata.errors import CallError


def joint(backbone: Backbone, block: nn.Module, expert: nn.Module, streams: tuple[Stream, ...], *, onward: bool = True, two_way: bool = True) -> tuple[Stream, ...]:
    """One block: the target, first of `streams`, by `block`, the references by `expert`, in one attention.

    softmax([Q_t; Q_r] [K_t; K_r]^T / sqrt(d)) [V_t; V_r], padded text left out, each stream with its own projections, norms, rotary
    positions, gates and feed-forward. The target's rows come first, as in the released code (the paper lists the
    reference first: the same sums). Text that walks along takes part.

    two_way False: the references' queries see the references' keys alone. onward False: nobody reads the references
    afterwards, so their queries are not asked and they stay as they came.
    """
    target, *references = streams
    inputs = [backbone.attention_inputs(block, target), *(backbone.attention_inputs(expert, each) for each in references)]
    lengths = [each.query.shape[2] for each in inputs]
    if onward and two_way:
        attended = list(_attend(inputs, inputs).split(lengths, dim=2))
    elif onward:
        attended = [_attend(inputs[:1], inputs), *_attend(inputs[1:], inputs[1:]).split(lengths[1:], dim=2)]
    else:
        attended = [_attend(inputs[:1], inputs)]
    after = backbone.attention_output(block, target, attended[0], inputs[0].carry)
    if not onward:
        return after, *references
    return after, *(
        backbone.attention_output(expert, stream, rows, given.carry) for stream, rows, given in zip(references, attended[1:], inputs[1:], strict=True)
    )


def added(backbone: Backbone, block: nn.Module, expert: nn.Module, inject: nn.Module, streams: tuple[Stream, ...]) -> tuple[Stream, ...]:
    """One block, every stream for itself; then video_t += inject(mean over references of video_r), token by token."""
    target, *references = streams
    if any(each.grid != target.grid for each in references):
        raise CallError(
            f"vap: fusion=residual adds token to token; the target has {target.grid} patches (time, height, width), "
            f"a reference {next(each.grid for each in references if each.grid != target.grid)}. Type --set vap.fusion=joint"
        )
    after = run_block(backbone, block, target)
    moved = tuple(run_block(backbone, expert, each) for each in references)
    mean = torch.stack([each.video for each in moved]).mean(dim=0)
    return replace(after, video=after.video + inject(mean).to(after.video)), *moved


def _attend(asking: Sequence[AttentionInputs], answering: Sequence[AttentionInputs]) -> Tensor:
    """All queries of `asking` over all keys of `answering`, both in order."""
    return attention(
        torch.cat([each.query for each in asking], dim=2),
        torch.cat([each.key for each in answering], dim=2),
        torch.cat([each.value for each in answering], dim=2),
        _allowed(answering),
    )


def _allowed(answering: Sequence[AttentionInputs]) -> Tensor | None:
    """Which of all their keys may be attended to; None for every one."""
    if all(each.mask is None for each in answering):
        return None
    masks = [each.key.new_ones(each.key.shape[0], each.key.shape[2], dtype=torch.bool) if each.mask is None else each.mask for each in answering]
    return torch.cat(masks, dim=1)
