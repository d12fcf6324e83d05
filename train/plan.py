"""Whether a run fits before it is started: memory of each GPU under each way of sharing it out, and samples a second.

    python -m train.plan --backbone wan2.1-i2v-14b-480p --method vap --gpus 8 [--memory-gib 80] [--mfu 0.35] [--set part.field=value]

Counted, on a model that has shapes and no contents: every weight, gradient and optimiser state, and every tensor that one
forward pass keeps for the backward pass. Assumed: what the rest takes (`OTHER_GIB`, `WORKING`), and the share of the peak
that is reached (`--mfu`): no GPU has been measured here. Needs neither weights nor a catalog. Exercised by `pytest tests/train/test_plan.py`.
"""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from vapdata.errors import CallError, VapdataError

if TYPE_CHECKING:  # torch takes seconds to import, and --help needs none of it
    from train.parallel import Parallel
    from train.run import Run
    from train.shadow import Cost

GIB = 2**30
OTHER_GIB = 2.0
"""Assumed: the CUDA context, NCCL's buffers and libraries' workspaces, a process."""
WORKING = 1.25
"""Assumed: what is kept for the backward pass, times this, for gradients on their way and what the allocator cannot use."""
WAYS: dict[str, dict[str, Any]] = {
    "every GPU holds all (DDP)": {},
    "own weights split in groups of 8 (HSDP)": {"shard": 8},
    "own weights split over all (FSDP)": {"shard": 0},
    "frozen blocks split too": {"shard": 0, "replicate_backbone": False},
    "and 2 GPUs a sample": {"shard": 0, "replicate_backbone": False, "sequence": 2},
    "and 4 GPUs a sample": {"shard": 0, "replicate_backbone": False, "sequence": 4},
    "and 8 GPUs a sample": {"shard": 0, "replicate_backbone": False, "sequence": 8},
    "and in the CPU's memory": {"shard": 0, "replicate_backbone": False, "sequence": 8, "offload": True},
}
"""Ways to share a run out, with the settings of `parallel` that make them."""
ALONE: dict[str, dict[str, Any]] = {
    "the GPU holds all": {},
    "own weights in the CPU's memory": {"shard": 0, "offload": True},
    "and frozen blocks there": {"shard": 0, "replicate_backbone": False, "offload": True},
}
"""The ways of one GPU."""


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes in one GPU."""

    frozen: float
    """Weights of the backbone that do not learn."""
    own: float
    """The method's weights, float32."""
    gradients: float
    state: float
    """AdamW's two moments, and the moving average where there is one."""
    gathers: float
    """Weights that are put together for a block and its neighbour, and that block's gradient before it is sent."""
    activations: float
    other: float = OTHER_GIB * GIB
    host: float = 0.0
    """In the CPU's memory, besides."""

    @property
    def total(self) -> float:
        """Of the GPU."""
        return self.frozen + self.own + self.gradients + self.state + self.gathers + self.activations + self.other

    @property
    def most(self) -> str:
        """What takes the most."""
        return max(("frozen", "own", "gradients", "state", "gathers", "activations"), key=lambda name: float(getattr(self, name)))


def memory(cost: "Cost", parallel: "Parallel", gpus: int, *, average: bool = False) -> Memory:
    """What one of `gpus` GPUs holds. Raises CallError when they cannot be shared out so."""
    shard = parallel.shard or gpus
    for name, size in (("shard", shard), ("sequence", parallel.sequence)):
        if gpus % size:
            raise CallError(f"parallel.{name}={size}: {gpus} GPUs cannot be put into groups of {size}")
    if cost.heads % parallel.sequence:
        raise CallError(f"parallel.sequence={parallel.sequence}: {cost.heads} heads cannot be shared by {parallel.sequence} GPUs")
    is_sharded = parallel.shard != 1
    frozen = cost.frozen_rest + cost.frozen_blocks / (1 if parallel.replicate_backbone else shard)
    own, gradients, state = (each / shard for each in (4 * cost.own, 4 * cost.learned, (12 if average else 8) * cost.learned))
    # In one piece: autocast's bf16 copies. Split: two units as they travel (bf16, a quarter more for what stays float32) and the
    # entries, and the gradient of the largest unit twice: as it is made, and on its way.
    gathers = 2.0 * cost.own
    if is_sharded:
        unit = 2.5 * cost.largest_own + (0 if parallel.replicate_backbone else cost.largest_frozen)
        gathers = 2 * unit + 8 * cost.largest_own + 2.5 * cost.own_root
    host = own + gradients + state if parallel.offload else 0.0
    if parallel.offload:
        host += 0 if parallel.replicate_backbone else cost.frozen_blocks / shard
        frozen, own, gradients, state = (frozen if parallel.replicate_backbone else cost.frozen_rest), 0.0, 0.0, 0.0
    return Memory(
        frozen=frozen, own=own, gradients=gradients, state=state, gathers=gathers, activations=WORKING * cost.activations / parallel.sequence, host=host
    )


def table(run: "Run", cost: "Cost", gpus: int, memory_gib: float, mfu: float, peak_tflops: float) -> list[str]:
    """What is printed: the run, a line for each way, and the first that fits with its rate."""
    facts = f"{cost.own / 1e9:.3f} B own weights ({cost.learned / 1e9:.3f} B learn), {cost.frozen_count / 1e9:.3f} B frozen"
    lines = [
        f"{run.method.name} on {run.backbone}, {cost.size}, {gpus} GPUs of {memory_gib:g} GiB, micro-batch {run.micro_batch}, blocks.keep={run.blocks.keep}",
        f"{facts}; {cost.tokens:,} video tokens and {cost.flops / 1e15:.2f} PFLOP a sample",
        "",
        f"{'GiB in each GPU':40s} {'frozen':>7s} {'own':>6s} {'grads':>6s} {'AdamW':>6s} {'gather':>6s} {'activ.':>7s} {'other':>5s} {'all':>7s}  fits?",
    ]
    fitting: list[tuple[str, dict[str, Any]]] = []
    seen: set[Any] = set()
    for name, settings in _ways(run, gpus):
        parallel = dataclasses.replace(run.parallel, **settings)
        resolved = parallel if gpus == 1 else dataclasses.replace(parallel, shard=min(parallel.shard or gpus, gpus))
        try:
            if resolved in seen:
                continue
            seen.add(resolved)
            resolved.check_method(run.method)
            held = memory(cost, resolved, gpus, average=bool(run.optimizer.ema))
        except CallError as error:
            lines.append(f"{name:40s} no: {error}")
            continue
        lines.append(_line(name, held, memory_gib))
        if held.total <= memory_gib * GIB:
            fitting.append((name, settings))
    return [*lines, "", *_verdict(run, cost, gpus, mfu, peak_tflops, fitting)]


def _ways(run: "Run", gpus: int) -> Sequence[tuple[str, dict[str, Any]]]:
    """All ways that the method is made for; the call's own alone where it names one."""
    from train.parallel import Parallel, splits_tokens

    if run.parallel != Parallel():
        return [("as it was asked for", {})]
    kept = [each.name for each in dataclasses.fields(Parallel) if each.name != "sequence" or splits_tokens(run.method)]
    return [(name, {field: settings[field] for field in kept if field in settings}) for name, settings in (ALONE if gpus == 1 else WAYS).items()]


def _line(name: str, held: Memory, memory_gib: float) -> str:
    parts = (held.frozen, held.own, held.gradients, held.state, held.gathers, held.activations, held.other, held.total)
    cells = (f"{part / GIB:{width}.1f}" for part, width in zip(parts, (7, 6, 6, 6, 6, 7, 5, 7), strict=True))
    over = held.total / GIB - memory_gib
    host = f"; {held.host / GIB:.0f} GiB of the CPU's" if held.host else ""
    return f"{name:40s} {' '.join(cells)}  " + (f"yes, {-over:.1f} left{host}" if over <= 0 else f"no, {over:.1f} too many, most of all {held.most}{host}")


def _verdict(run: "Run", cost: "Cost", gpus: int, mfu: float, peak_tflops: float, fitting: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
    assumed = f"an MFU of {mfu:g} of {peak_tflops:g} TFLOP/s is an assumption, for no GPU has been measured here"
    if not fitting:
        return ["None of them fits. Try more GPUs, fewer frames (--frames), or --set blocks.keep=nothing."]
    name, settings = fitting[0]
    rate = gpus * peak_tflops * 1e12 * mfu / cost.flops
    typed = " ".join(f"--set parallel.{field}={str(value).lower()}" for field, value in settings.items())
    return [
        f"First that fits: {name}{f': {typed}' if typed else ''}",
        f"Expected: {rate:.3g} samples/s, a step of {run.global_batch} in {run.global_batch / rate:.3g} s ({assumed}; waiting for other GPUs is part of it).",
    ]


def _plan(given: dict[str, Any]) -> None:
    from train.flops import named_peak
    from train.recipes import recipe
    from train.shadow import cost_of

    run = recipe(given["recipe"], given["method"], given["backbone"]).changed(given["settings"])
    if given["micro_batch"]:
        run = dataclasses.replace(run, micro_batch=given["micro_batch"])
    peak = given["peak_tflops"] or named_peak(given["gpu"])
    if not peak:
        raise CallError(f"--gpu {given['gpu']}: its peak is not known. Type --peak-tflops 989")
    cost = cost_of(run, frames=given["frames"], height=given["height"], width=given["width"])
    click.echo("\n".join(table(run, cost, given["gpus"], given["memory_gib"], given["mfu"], peak)))


_OPTIONS = [
    click.Option(["--backbone"], required=True, help="Backbone, by name; its weights need not be here."),
    click.Option(["--method"], default="vap", show_default=True, help="What is trained."),
    click.Option(["--gpus"], type=click.IntRange(1), default=8, show_default=True, help="GPUs in all."),
    click.Option(["--memory-gib"], type=float, default=80.0, show_default=True, help="Memory of one."),
    click.Option(["--mfu"], type=click.FloatRange(0, 1, min_open=True), default=0.35, show_default=True, help="Share of the peak that is reached: an assumption."),
    click.Option(["--gpu"], default="H100", show_default=True, help="Whose bf16 peak is taken, see train/flops.py."),
    click.Option(["--peak-tflops"], type=float, default=0.0, help="The peak in TFLOP/s, in place of --gpu's."),
    click.Option(["--recipe"], help="A named run of train/recipes.py; left out: the method's for this backbone."),
    click.Option(["--micro-batch"], type=click.IntRange(1), help="Samples per GPU and forward pass."),
    click.Option(["--frames"], type=click.IntRange(1), help="Pixel frames of a clip; left out: the backbone's own, or what the method is made for."),
    click.Option(["--height"], type=click.IntRange(16), help="Likewise."),
    click.Option(["--width"], type=click.IntRange(16), help="Likewise."),
    click.Option(["--set", "settings"], multiple=True, metavar="PART.FIELD=VALUE", help="Any field of a run; with one of parallel.* that way alone is looked at."),
]


def _guarded(**given: Any) -> None:
    try:
        _plan(given)
    except VapdataError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(2 if isinstance(error, CallError) else 1)


_SETTINGS = {"max_content_width": 160, "help_option_names": ["-h", "--help"]}
command = click.Command("train.plan", params=_OPTIONS, callback=_guarded, help="Says whether a run fits into GPUs, and how fast it may be.", context_settings=_SETTINGS)

if __name__ == "__main__":
    command(prog_name="python -m train.plan")
