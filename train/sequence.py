"""A sample's tokens shared out among several processes (Ulysses): each holds a part of them and, inside attention, all of them for a part of the heads.

    embed                  made whole by every process, which then keeps its share of video and text rows
    norms, projections, feed-forward, cross-attention     each process on its own rows
    attention_inputs       all-to-all: from its rows of all heads to all rows, in their order, of its heads
    attention_output       and back
    head                   the rows are put together again, and every process has the whole prediction

So a method's attention, joint or not, is what it was. Every process then has the same loss, and takes its share of it (the
loop divides by their number). As each exchange's backward pass is its true adjoint, the gradients of all processes add up
to that of one process, wherever a weight is used: before, within or behind the part that is shared out.

DeepSpeed-Ulysses (arXiv 2309.14509). Exercised by `pytest tests/train/test_sequence.py`.

Shapes: B batch, L video tokens, M text rows, S rows of attention, D width, h heads, d head dim, P processes of a group.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn

from train.method import AttentionInputs, Backbone, Part, Stream
from vapdata.errors import CallError


@dataclass(kw_only=True)
class Group:
    """The processes that share a sample's tokens, as one of them sees them."""

    group: Any
    rank: int
    size: int
    together: bool = True
    """False: this process makes a forward pass alone, on all tokens (counting operations, where nothing is computed)."""

    def share(self, rows: int, rank: int) -> int:
        """Rows of `rows` that process `rank` holds: as even as can be, the first ones hold more."""
        return rows // self.size + (rank < rows % self.size)

    def own(self, rows: int) -> slice:
        """Where this process's rows lie."""
        start = sum(self.share(rows, rank) for rank in range(self.rank))
        return slice(start, start + self.share(rows, self.rank))


class SplitBackbone:
    """A backbone whose streams hold one process's part of the tokens. All else is the backbone's."""

    def __init__(self, backbone: Backbone, group: Group) -> None:
        """Raises CallError when the heads cannot be divided."""
        self._backbone, self._group = backbone, group
        config: Any = backbone.transformer.config
        heads = config.num_attention_heads
        if heads % group.size:
            fitting = [each for each in range(2, heads + 1) if heads % each == 0][:6]
            raise CallError(
                f"parallel.sequence={group.size}: {backbone.facts.name} has {heads} attention heads, which {group.size} processes cannot share evenly. "
                f"Type --set parallel.sequence=1, or one of {', '.join(map(str, fitting))}"
            )

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backbone, name)

    def embed(self, *arguments: Any, **settings: Any) -> Stream:
        """The backbone's, of which this process's part is kept."""
        stream = self._backbone.embed(*arguments, **settings)
        if not self._group.together:
            return stream
        tokens, rows = stream.video.shape[1], 0 if stream.text is None else stream.text.shape[1]
        if tokens < self._group.size:
            raise CallError(f"parallel.sequence={self._group.size}: a clip of {tokens} tokens has not one for each process. Type --set parallel.sequence=1")
        video, text = self._group.own(tokens), self._group.own(rows)
        return replace(
            stream,
            video=stream.video[:, video],
            text=None if stream.text is None else stream.text[:, text],
            rotary=None if stream.rotary is None else (stream.rotary[0][video], stream.rotary[1][video]),
            part=Part(first=video.start, video=tokens, text=rows),
        )

    def attention_inputs(self, block: nn.Module, stream: Stream) -> AttentionInputs:
        """Query, key and value of this process's heads, for all rows in their order."""
        made = self._backbone.attention_inputs(block, stream)
        if stream.part is None:
            return made
        kind = made.query.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else made.query.dtype
        packed = torch.stack([each.to(dtype) for each in (made.query, made.key, made.value)])
        query, key, value = self._to_heads(packed, stream.part)
        whole = slice(stream.part.text, None) if self.text_first else slice(stream.part.video)
        return replace(made, query=query, key=key, value=value, unturned=None, normed=None, video_rows=whole)

    def attention_output(
        self, block: nn.Module, stream: Stream, attended: Float[Tensor, "B h S d"], carry: tuple[Tensor, ...], *, added: Float[Tensor, "B rows D"] | None = None
    ) -> Stream:
        """The stream after the block, from attended rows of this process's heads. `added` is this process's own rows."""
        if stream.part is not None:
            attended = self._to_rows(attended, stream.part)
        return self._backbone.attention_output(block, stream, attended, carry, added=added)

    def caption_tokens(self, stream: Stream) -> tuple[Float[Tensor, "B M D"], Bool[Tensor, "B M"] | None]:
        """The backbone's. Raises CallError where no process has all of the caption's rows."""
        if stream.part is not None and stream.text is not None:
            raise CallError(f"parallel.sequence={self._group.size}: no process has the whole caption of {self.facts.name}. Type --set parallel.sequence=1")
        return self._backbone.caption_tokens(stream)

    def head(self, stream: Stream) -> Float[Tensor, "B C T H W"]:
        """The whole prediction."""
        if stream.part is None:
            return self._backbone.head(stream)
        group, video = self._group, stream.video
        counts = [group.share(stream.part.video, rank) for rank in range(group.size)]
        sent = video.expand(group.size, *video.shape)  # to each; the sum over all is this copying's adjoint
        shapes = [(video.shape[0], count, video.shape[2]) for count in counts]
        return self._backbone.head(replace(stream, video=torch.cat(_exchanged(list(sent), shapes, group), dim=1), part=None))

    def _to_heads(self, packed: Float[Tensor, "3 B h s d"], part: Part) -> Float[Tensor, "3 B k S d"]:
        """From this process's rows of all heads to all rows of its heads."""
        group = self._group
        sent = list(packed.chunk(group.size, dim=2))
        shape = sent[0].shape
        lengths = [(group.share(part.text, rank), group.share(part.video, rank)) for rank in range(group.size)]
        received = _exchanged(sent, [(*shape[:3], sum(each), shape[4]) for each in lengths], group)
        first = [len_text if self.text_first else len_video for len_text, len_video in lengths]
        split = [(each[..., :count, :], each[..., count:, :]) for each, count in zip(received, first, strict=True)]
        return torch.cat([*(front for front, _ in split), *(back for _, back in split)], dim=3)

    def _to_rows(self, attended: Float[Tensor, "B k S d"], part: Part) -> Float[Tensor, "B h s d"]:
        """From all rows of this process's heads to its rows of all heads."""
        group = self._group
        texts, videos = ([group.share(rows, rank) for rank in range(group.size)] for rows in (part.text, part.video))
        front, back = (texts, videos) if self.text_first else (videos, texts)
        fronts, backs = attended[:, :, : sum(front)].split(front, dim=2), attended[:, :, sum(front) :].split(back, dim=2)
        sent = [torch.cat(pair, dim=2) for pair in zip(fronts, backs, strict=True)]
        shape = (*attended.shape[:2], texts[group.rank] + videos[group.rank], attended.shape[3])
        return torch.cat(_exchanged(sent, [shape] * group.size, group), dim=1)


def _exchanged(sent: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], group: Group) -> list[Tensor]:
    """What each process of the group has sent to this one, `shapes` each, for `sent`, one tensor to each."""
    sizes = [torch.Size(shape).numel() for shape in shapes]
    flat = _AllToAll.apply(torch.cat([each.reshape(-1) for each in sent]), [each.numel() for each in sent], sizes, group.group)
    return [each.view(shape) for each, shape in zip(flat.split(sizes), shapes, strict=True)]


class _AllToAll(torch.autograd.Function):
    """all_to_all_single, whose adjoint is the way back."""

    @staticmethod
    def forward(context: Any, flat: Tensor, given: list[int], taken: list[int], group: Any) -> Tensor:
        context.sizes, context.group = (given, taken), group
        return _moved(flat, given, taken, group)

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        given, taken = context.sizes
        return _moved(gradient.contiguous(), taken, given, context.group), None, None, None


def _moved(flat: Tensor, given: list[int], taken: list[int], group: Any) -> Tensor:
    made = flat.new_empty(sum(taken))
    dist.all_to_all_single(made, flat, output_split_sizes=taken, input_split_sizes=given, group=group)
    return made
