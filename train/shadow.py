"""What a run would cost, from one forward pass on a backbone and a method that have shapes and no contents. Nothing is computed, no weights are read.

Everything is bf16 but for what the backbone keeps in float32. Attention keeps queries, keys, values and its result, as Flash
kernels do. On a GPU norms under autocast are computed, and kept, in float32: there a block takes somewhat more. Exercised by `pytest tests/train/test_plan.py`.

Shapes: B micro-batch, C channels, T latent frames, H W latent rows and columns.
"""

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from train.backbones.architecture import narrow, shadow
from train.batch import Batch, Reads, Side
from train.blocks import Keep
from train.flops import Counter
from train.run import Run
from vapdata import backbones
from vapdata.errors import CallError

TOWERS: Mapping[str, tuple[int, int]] = {"wan": (257, 1280), "blip2": (257, 1408), "clip": (577, 1024)}
"""Image tokens that a tower makes, and their width."""
TINY_TOWERS: Mapping[str, int] = {"wan": 64, "blip2": 88, "clip": 64}
"""Their width in a tiny tower."""
WORDS, KEYWORDS = 32, 4
"""Words of a caption in BLIP-2's Q-Former, and keywords in it."""
MASKS = 24
"""Rows and columns of CLIP's masks: ViT-L/14 at 336 pixels."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Counts of one process that holds everything. Numbers of weights, and bytes where it says so."""

    size: str
    heads: int
    frozen_count: int
    frozen_blocks: int
    """Bytes of the frozen blocks."""
    frozen_rest: int
    """Bytes of what is frozen besides: entries and head."""
    own: int
    """The method's weights; `full`'s are the backbone's."""
    learned: int
    """Those of them that get a gradient."""
    largest_own: int
    """The method's weights in the unit that holds the most of them, see train/parallel.py."""
    largest_frozen: int
    """Bytes of the largest frozen unit."""
    own_root: int
    """The method's weights that are in no unit."""
    activations: float
    """Bytes of what a forward pass keeps for the backward pass of a micro-batch, with what one block computes again."""
    tokens: int
    """Video tokens of a sample: the target's and its references'."""
    flops: float
    """Forward and backward of a sample, see train/flops.py."""


def cost_of(run: Run, *, frames: int | None = None, height: int | None = None, width: int | None = None) -> Cost:
    """What a micro-batch of `run` costs at this many pixel frames and this size.

    None for the backbone's own, or for as few frames as make the `latent_frames` that the method is set to.
    """
    facts = backbones.backbone(run.backbone)
    latent_frames: int | None = getattr(run.method, "latent_frames", None)
    frames = frames or (facts.vae.law.least_pixel_frames(latent_frames) if latent_frames else facts.frames)
    height, width = height or facts.height, width or facts.width
    shape = _latents(facts, frames, height, width)
    backbone = shadow(facts, torch.bfloat16)
    watch = _Watch()
    module = run.method.attach(backbone, watch.wrap)
    frozen = [each for each in backbone.transformer.parameters() if not run.method.trains_backbone]
    own = [*module.parameters()]
    counts = {"own": _count(own), "learned": _count(each for each in own if each.requires_grad), "frozen_count": _count(frozen)}
    blocks = [] if not frozen else [each for block in backbone.blocks for each in block.parameters()]
    # What a method holds and does not register, for it neither learns nor is exported: a module's `beside`.
    beside = [each for part in module.modules() if isinstance(getattr(part, "beside", None), nn.Module) for each in part.beside.parameters()]
    narrow(module, backbone.transformer, torch.bfloat16)
    watch.known = {_place(each) for each in (*backbone.transformer.parameters(), *own, *beside)}
    batch = _batch(facts, run.method.reads(facts) | backbone.reads(), shape, run.micro_batch).to(torch.device("meta"))
    with watch.outside(), watch.counter:
        module(batch)
    sides = (batch.target, *batch.references)
    tokens = sum(math.prod(backbone.embed(side.video, batch.timesteps, side).grid) for side in sides)
    mine = {id(each) for each in own}
    units = [list(unit.parameters()) for unit in watch.units]
    owned = [_count(each for each in unit if id(each) in mine) for unit in units]
    config: Any = backbone.transformer.config
    return Cost(
        size=f"{frames} x {height} x {width}",
        heads=config.num_attention_heads,
        frozen_blocks=sum(each.nbytes for each in blocks),
        frozen_rest=sum(each.nbytes for each in (*frozen, *beside)) - sum(each.nbytes for each in blocks),
        largest_own=max(owned, default=0),
        largest_frozen=max((sum(each.nbytes for each in unit if id(each) not in mine) for unit in units), default=0),
        own_root=counts["own"] - sum(owned),
        activations=watch.kept(run.blocks.keep),
        tokens=tokens,
        flops=(watch.counter.forward + watch.counter.backward) / run.micro_batch,
        **counts,
    )


class _Watching(Counter):
    """Operations, and the bytes that attention returns, by a kernel that keeps what Flash kernels keep."""

    def __init__(self) -> None:
        super().__init__()
        self.attended = 0

    def __torch_function__(self, function: Callable[..., Any], types: Sequence[type], args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        if function is not functional.scaled_dot_product_attention:
            return super().__torch_function__(function, types, args, kwargs)
        query, key, value = args[:3]
        self.attention(query, key, value)
        self.attended += query.nbytes
        return _Flash.apply(query, key, value)


class _Flash(torch.autograd.Function):
    """Attention in shapes alone."""

    @staticmethod
    def forward(context: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        made = torch.empty_like(query)
        context.save_for_backward(query, key, value, made, query.new_empty(query.shape[:3], dtype=torch.float32))
        return made

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        query, key, value, *_ = context.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


class _Watch:
    """What a pass keeps, block for block, each storage once."""

    def __init__(self) -> None:
        self.counter = _Watching()
        self.units: dict[nn.Module, None] = {}
        self.known: set[int] = set()
        """Storages that are counted elsewhere: weights."""
        self._rest = 0
        self._blocks: list[tuple[int, int, int]] = []
        """Of each block: bytes that go in, bytes that attention returns, bytes that it keeps in all."""
        self._held: list[Tensor] = []

    def wrap(self, block: Callable[..., Any]) -> Callable[..., Any]:
        """The `WrapBlock` of the pass."""

        @functools.wraps(block)
        def watched(*arguments: Any) -> Any:
            self.units |= dict.fromkeys(each for each in arguments if isinstance(each, nn.Module))
            into = sum(self._new(each) for each in _tensors(arguments))
            kept, attended = 0, self.counter.attended

            def pack(tensor: Tensor) -> Tensor:
                nonlocal kept
                kept += self._new(tensor)
                return tensor

            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                out = block(*arguments)
            if any(each.requires_grad for each in _tensors(out)):
                self._blocks.append((into, self.counter.attended - attended, into + kept))
            return out

        return watched

    def outside(self) -> torch.autograd.graph.saved_tensors_hooks:
        """Around the whole pass: what is kept in no block."""

        def pack(tensor: Tensor) -> Tensor:
            self._rest += self._new(tensor)
            return tensor

        return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)

    def kept(self, keep: Keep) -> float:
        """Bytes at the peak."""
        whole = [block for *_, block in self._blocks]
        if keep == "everything":
            return self._rest + sum(whole)
        inputs = sum(into + (attended if keep == "attention" else 0) for into, attended, _ in self._blocks)
        return self._rest + inputs + max(whole, default=0)

    def _new(self, tensor: Tensor) -> int:
        """A tensor's bytes, the first time that its storage is met."""
        place = _place(tensor)
        if place in self.known:
            return 0
        self.known.add(place)
        self._held.append(tensor)  # so that no other storage gets its place
        return tensor.untyped_storage().nbytes()


def _latents(facts: backbones.Backbone, frames: int, height: int, width: int) -> tuple[int, int, int, int]:
    facts.vae.law.check(frames)
    if height % facts.vae.size_multiple or width % facts.vae.size_multiple:
        raise CallError(f"plan: height and width must divide by {facts.vae.size_multiple}; got {height} x {width}")
    return facts.vae.latent_channels, facts.vae.law.latent_frames(frames), height // facts.vae.spatial_stride, width // facts.vae.spatial_stride


def _batch(facts: backbones.Backbone, reads: Reads, shape: tuple[int, int, int, int], size: int) -> Batch:
    """A micro-batch of these shapes, with all that method and backbone read."""
    target = _side(facts, reads, shape, size)
    return Batch(
        step=0,
        target=target,
        references=(target,) * reads.references,
        weights=torch.ones(size),
        seeds=tuple(range(size)),
        timesteps=torch.full((size,), 500.0),
        noise=torch.empty(size, *shape),
    )


def _side(facts: backbones.Backbone, reads: Reads, shape: tuple[int, int, int, int], size: int) -> Side:
    channels, latent_frames, rows, columns = shape
    made: dict[str, Tensor] = {}
    if reads.text:
        made |= {"text": torch.empty(size, facts.text.rows, facts.text.width), "text_mask": torch.ones(size, facts.text.rows, dtype=torch.bool)}
    if reads.pooled:
        made["pooled"] = torch.empty(size, 32 if facts.tiny else 768)
    if reads.first:
        made["first"] = torch.empty(size, channels, 1, rows, columns)
    if reads.condition:
        made["condition"] = torch.empty(size, channels, 1 if facts.family == "hunyuan" else latent_frames, rows, columns)
    if reads.image_tokens:
        tokens, wide = TOWERS[reads.image_tokens]
        made["image_tokens"] = torch.empty(size, tokens, TINY_TOWERS[reads.image_tokens] if facts.tiny else wide)
    if reads.words:
        made |= {"words": torch.empty(size, WORDS, 32 if facts.tiny else 768), "words_mask": torch.ones(size, WORDS, dtype=torch.bool)}
    if reads.empty:
        made["empty"] = torch.empty(size, facts.text.rows, facts.text.width)
    if reads.keywords:
        anchors = TOWERS["wan"][1] if facts.family == "wan" else 1024
        made |= {
            "keyword_maps": torch.empty(size, KEYWORDS, 16, 16),
            "keyword_anchors": torch.empty(size, KEYWORDS, (64 if facts.family == "wan" else 48) if facts.tiny else anchors),
            "keyword_spans": torch.tensor([[[each, each + 1] for each in range(KEYWORDS)]] * size),
            "keyword_mask": torch.ones(size, KEYWORDS, dtype=torch.bool),
        }
    if reads.masks:
        made["masks"] = torch.empty(size, 3, MASKS, MASKS)
    if reads.picture:
        made["picture"] = torch.empty(size, 3, rows * facts.vae.spatial_stride, columns * facts.vae.spatial_stride, dtype=torch.uint8)
    return Side(clip_ids=("plan/0",) * size, video=torch.empty(size, *shape), **made)


def _count(parameters: Iterable[Tensor]) -> int:
    return sum(each.numel() for each in parameters)


def _place(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _tensors(value: Any) -> list[Tensor]:
    """Every tensor in streams, tuples of them, and the like."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, list | tuple):
        return [tensor for each in value for tensor in _tensors(each)]
    if is_dataclass(value) and not isinstance(value, type):
        return [tensor for each in fields(value) for tensor in _tensors(getattr(value, each.name))]
    return []
