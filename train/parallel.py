"""How a run's work and memory are shared out among its processes. Applied from outside: methods stay single-device maths.

    shard      the trained weights, their gradients and optimiser state are split over so many processes (torch's FSDP2,
               `fully_shard`); with several such groups each holds a copy of all (HSDP, by a device mesh)
    sequence   so many processes see the same samples and hold a part of their tokens each, see train/sequence.py

A unit is what is put together for one piece of the forward pass and let go after it: every module that the method hands
to a block function (`train.method.WrapBlock`). That is found out by one forward pass that computes nothing, so no method
has to know of it. Block functions call a block's children, never its forward, so the hooks of a unit stand around the
block function. What is in no unit (entries, say) is put together once a pass. Trained weights stay float32, whatever is computed in.
Exercised by `pytest tests/train/test_parallel.py`.
"""

import functools
import math
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from train.batch import Batch
from train.method import Backbone, Guided, Method, WrapBlock
from train.sequence import Group, SplitBackbone
from train.world import World
from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class Parallel:
    """How many processes share what. One that says nothing: every process holds everything, and gradients are averaged (DDP)."""

    shard: int = 1
    """Processes over which what is trained is split, with gradients and optimiser state; 0 for all of them, 1 for no splitting.

    Fewer than there are: groups of neighbours that hold a copy each (HSDP), so that weights travel within a machine.
    """
    sequence: int = 1
    """Processes, neighbours, that share the tokens of each sample; they divide the attention's heads."""
    replicate_backbone: bool = True
    """Frozen blocks are whole in every process. False splits them like what is trained: less memory, and every block travels twice a step."""
    offload: bool = False
    """What is split lies in the CPU's memory, and is updated there."""

    def __post_init__(self) -> None:
        if self.shard < 0 or self.sequence < 1:
            raise CallError(f"parallel: got shard={self.shard} sequence={self.sequence}; shard is 0 or more, sequence 1 or more. Type e.g. --set parallel.shard=0")
        if self.shard == 1 and (self.offload or not self.replicate_backbone):
            asked = "offload=true" if self.offload else "replicate_backbone=false"
            raise CallError(f"parallel: {asked} speaks of what is split, and shard=1 splits nothing. Type --set parallel.shard=0 for all processes")

    def check_method(self, method: Method) -> None:
        """Raises CallError for a method that has not been made for sharing a sample's tokens, where they are to be shared."""
        if self.sequence > 1 and not splits_tokens(method):
            raise CallError(f"parallel.sequence={self.sequence}: train.{method.name} needs every token of a sample in one process. Type --set parallel.sequence=1")

    def over(self, world: World) -> "Layout":
        """The layout on these processes. Raises CallError when the numbers do not divide them."""
        shard = self.shard or world.ranks
        for name, size in (("shard", shard), ("sequence", self.sequence)):
            if world.ranks % size:
                raise CallError(f"parallel.{name}={size}: {world.ranks} processes cannot be put into groups of {size}. Type --set parallel.{name}={math.gcd(size, world.ranks)}")
        return Layout(self, world, shard)


def splits_tokens(method: Method) -> bool:
    """Whether processes may share a sample's tokens: the method's own word."""
    return bool(getattr(method, "splits_tokens", False))


class Layout:
    """The processes of a run, and what each of them does and holds. Every process makes one, at the same point."""

    def __init__(self, parallel: Parallel, world: World, shard: int) -> None:
        """`shard`: processes of one group that splits what is trained."""
        self.parallel, self.world, self.shard = parallel, world, shard
        self._is_spread = False
        self._noted: dict[nn.Module, None] = {}
        self._units: dict[nn.Module, Unit] = {}
        self._groups: list[Group] = []

    @property
    def is_sharded(self) -> bool:
        """Whether weights are split, so that every process must take part in every forward pass."""
        return self.parallel.shard != 1

    @property
    def in_step(self) -> bool:
        """Whether a forward pass needs other processes, so that all must make as many."""
        return self.is_sharded or self.parallel.sequence > 1

    @property
    def data_rank(self) -> int:
        """Which part of a global batch this process is given."""
        return self.world.rank // self.parallel.sequence

    @property
    def data_ranks(self) -> int:
        """Parts that a global batch is cut into."""
        return self.world.ranks // self.parallel.sequence

    @property
    def counts(self) -> bool:
        """Whether this process's results count: of those that see the same samples, the first's do."""
        return self.world.rank % self.parallel.sequence == 0

    def backbone(self, backbone: Backbone, method: Method) -> Backbone:
        """What the method is attached to: the backbone, or one that holds a part of each sample's tokens.

        Raises CallError for a method that has not been made for that, and heads that cannot be divided.
        """
        if self.parallel.sequence == 1:
            return backbone
        self.parallel.check_method(method)
        size = self.parallel.sequence
        groups = [dist.new_group([*range(first, first + size)]) for first in range(0, self.world.ranks, size)]
        self._groups.append(Group(group=groups[self.world.rank // size], rank=self.world.rank % size, size=size))
        return SplitBackbone(backbone, self._groups[0])

    def wrap(self, inner: WrapBlock) -> WrapBlock:
        """`inner`, and around it what puts a block's units together and lets them go. Outside of checkpointing, which computes again what needs them there."""
        if not self.is_sharded:
            return inner

        def around(block: Callable[..., Any]) -> Callable[..., Any]:
            run = inner(block)

            @functools.wraps(block)
            def put_together(*arguments: Any) -> Any:
                return _within(self._met(arguments), run, arguments)

            return put_together

        return around

    def _met(self, arguments: tuple[Any, ...]) -> "list[Unit]":
        """The units among a block function's arguments; before the module is spread, all modules among them are noted for units."""
        modules = dict.fromkeys(each for each in arguments if isinstance(each, nn.Module))
        if not self._is_spread:
            self._noted |= modules
        return [self._units[each] for each in modules if each in self._units]

    def spread(self, module: nn.Module, dtype: torch.dtype) -> nn.Module:
        """`module` as it is called from now on: forward and predict. Where weights are split, it has made a forward pass `alone` before.

        `dtype` is what the forward pass is computed in. Parameters that are split become new objects: ask for them afterwards.
        """
        self._is_spread = True
        learns = any(each.requires_grad for each in module.parameters())
        if not self.is_sharded:
            if self.world.ranks == 1 or not learns:
                return module
            ids = [self.world.device.index] if self.world.device.type == "cuda" else None
            return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)
        # Streams are never changed in place, which is what torch warns about.
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor", category=UserWarning)
        mine = {*module.parameters()}
        if not learns and self.parallel.replicate_backbone:
            return module  # nothing is left to split
        self._units = {each: Unit(each) for each in self._noted if not self.parallel.replicate_backbone or not mine.isdisjoint(each.parameters())}
        for unit in self._units.values():
            fully_shard(unit, ignored_params=self._kept(unit, mine), mp_policy=_travelling(unit, dtype), **self._options())
        root = Spread(module, [*self._units.values()])
        fully_shard(root, ignored_params=self._kept(module, mine), mp_policy=_travelling(module, dtype), **self._options())
        register_fsdp_forward_method(root, "predict")
        return root

    def _kept(self, unit: nn.Module, mine: set[nn.Parameter]) -> set[nn.Parameter] | None:
        """What is not split here: scalars, which FSDP2 cannot split, the backbone's own where they stay whole, and what a unit within has split."""
        kept = {each for each in unit.parameters() if not each.dim() or isinstance(each, DTensor) or (self.parallel.replicate_backbone and each not in mine)}
        return kept or None

    def _options(self) -> dict[str, Any]:
        copies, device = self.world.ranks // self.shard, self.world.device.type
        offload = CPUOffloadPolicy(pin_memory=device == "cuda") if self.parallel.offload else OffloadPolicy()
        return {
            "mesh": _mesh(device, copies, self.shard),
            "reshard_after_forward": True,
            "offload_policy": offload,
        }

    @contextmanager
    def alone(self) -> Iterator[None]:
        """A forward pass in here is made by this process alone, on all tokens: for counting, where nothing is computed."""
        for group in self._groups:
            group.together = False
        try:
            yield
        finally:
            for group in self._groups:
                group.together = True

    @contextmanager
    def gathering(self, module: nn.Module, *, last: bool) -> Iterator[None]:
        """Around forward and backward of a micro-batch: copies of a gradient are summed up with the `last` alone."""
        if isinstance(module, DistributedDataParallel) and not last:
            with module.no_sync():
                yield
            return
        if isinstance(module, FSDPModule):
            module.set_requires_all_reduce(last)
        yield

    def finish_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Averages, over all processes, the gradients of what is not split though the rest is: scalars."""
        if not self.is_sharded:
            return
        for parameter in parameters:
            if not isinstance(parameter, DTensor) and parameter.grad is not None:
                dist.all_reduce(parameter.grad)
                parameter.grad /= self.world.ranks

    def whole(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The same tensors in one piece, on the CPU of the first process, one after the other; elsewhere an empty dict. Every process calls it."""
        found: dict[str, Tensor] = {}
        for name, value in tensors.items():
            full = value.detach().full_tensor() if isinstance(value, DTensor) else value.detach()
            if self.world.is_first:
                found[name] = full.cpu()
        return found


class Unit(nn.Module):
    """One module that is put together and let go, with torch's hooks around. They are not on the module itself: a block function may call that, and go on to use it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, within: Callable[..., Any], run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        """What stands between the hooks; they take the tensors in `arguments` and in what comes back."""
        return within(run, arguments)


class Spread(nn.Module):
    """A method's module whose weights are split: the root that torch's hooks hang on, with every unit below it, the backbone's too."""

    def __init__(self, module: nn.Module, units: Sequence[nn.Module]) -> None:
        super().__init__()
        self.module, self.units = module, nn.ModuleList(units)
        if isinstance(module, Guided):
            self.negative_prompt, self.branches = module.negative_prompt, module.branches

    def forward(self, batch: Batch) -> Tensor:
        """The method's losses."""
        losses: Tensor = self.module(batch)
        return losses

    def predict(self, *arguments: Any) -> Tensor:
        """The method's prediction."""
        prediction: Tensor = self.module.predict(*arguments)
        return prediction

    def train(self, mode: bool = True) -> "Spread":
        """The method's modules alone: a frozen backbone stays in eval mode."""
        self.training = mode
        self.module.train(mode)
        return self


def clip(parameters: Sequence[nn.Parameter], most: float) -> float:
    """The global norm of the gradients, which are scaled down to `most` where it is above; split ones are looked at as a whole. 0 scales nothing."""
    learned = [each for each in parameters if each.grad is not None]
    kinds = [kind for split in (True, False) if (kind := [each for each in learned if isinstance(each, DTensor) is split])]
    norms = [torch.nn.utils.get_total_norm([each.grad for each in kind if each.grad is not None]) for kind in kinds]
    total = math.sqrt(sum(float(norm.full_tensor() if isinstance(norm, DTensor) else norm) ** 2 for norm in norms))
    if most and total > most:
        for kind in kinds:
            torch.nn.utils.clip_grads_with_norm_(kind, most, torch.tensor(total, device=kind[0].device))
    return total


def _travelling(unit: nn.Module, dtype: torch.dtype) -> MixedPrecisionPolicy:
    """Weights of linear layers and convolutions are sent and put together in `dtype`, into which autocast would turn them anyway; all else as it is.

    So nothing is computed otherwise than in one process: tables, norms and modulation stay float32. Gradients travel in float32.
    """
    narrow = {each.weight for each in unit.modules() if isinstance(each, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d)}
    return MixedPrecisionPolicy(
        param_dtype=dtype, reduce_dtype=torch.float32, cast_forward_inputs=False, param_dtype_override_fn=lambda each: None if each in narrow else each.dtype
    )


@functools.cache
def _mesh(device: str, copies: int, shard: int) -> Any:
    """The processes in rows of `shard` neighbours."""
    return init_device_mesh(device, (shard,) if copies == 1 else (copies, shard), mesh_dim_names=("shard",) if copies == 1 else ("replicate", "shard"))


def _within(units: Sequence[Unit], run: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """`run` of the arguments, with every unit put together around it."""
    if not units:
        return run(*arguments)
    first, *others = units
    return first(functools.partial(_within, others), run, arguments)
