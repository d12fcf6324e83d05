"""What a method costs over its frozen backbone, and the loop over a bare forward and backward of the same modules.

    python -m benchmarks.step [--method fg] [--steps 20] [--rounds 3] [--batch 16]

Builds catalogs of miniature clips and pairs, then alternates: a real run of the loop (loader, clipping, AdamW, metrics;
evaluation and checkpoints only at its ends), forward + backward + AdamW in a plain `for`, forward + backward alone, and
the frozen backbone's own forward and backward (to its input) without a method, on the same batches. Prints medians of the
steps' wall seconds and their ratios, with trained weights and the most memory that a process of its own holds; of the loop also what its steps take over the
forward, backward and AdamW within them. Appends dated rows to `benchmarks/RESULTS.md`. On a GPU give a real size by
`--catalog` and `--backbone`.
"""

import argparse
import contextlib
import functools
import json
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import torch
from torch import nn

from benchmarks.ledger import append_row
from catalogs.store import Catalog
from train.backbones import load_backbone
from train.batch import Batch
from train.blocks import Blocks
from train.checkpoint import Checkpoints
from train.data import Loader
from train.evaluate import Evaluation
from train.flops import per_sample
from train.index import build_index
from train.loop import _Trainer, fit
from train.method import Backbone
from train.optimizer import trained
from train.recipes import recipe
from train.run import Run
from train.speed import peak_memory_gb
from train.world import world
from vapdata import backbones

METHODS: dict[str, tuple[str, ...]] = {
    "full": ("tiny-cogvideox", "tiny-wan", "tiny-hunyuan"),
    "vap": ("tiny-cogvideox", "tiny-wan", "tiny-hunyuan"),
    "fca": ("tiny-cogvideox",),
    "ssg": ("tiny-cogvideox", "tiny-wan", "tiny-hunyuan"),
    "fg": ("tiny-wan", "tiny-hunyuan"),
}
"""Method -> tiny backbones that it is measured on."""
SETTINGS: dict[tuple[str, str], tuple[str, ...]] = {("vap", "tiny-hunyuan"): ("vap.expert_layers=all", "vap.ref_timestep=target")}
"""What has no default there, for nothing was released: an expert beside every block."""


def catalog_of(folder: Path, backbone: str) -> str:
    """A catalog of 64 miniature clips of four conditions for this backbone, at 9 x 96 x 160, with pairs."""
    from pipelines.prepare import Request, build, in_process
    from pipelines.recipes import recipe as data_recipe
    from pipelines.synthesize import Request as Pairs
    from pipelines.synthesize import synthesize
    from vapdata.conditions.mined import Mined
    from vapdata.sources.miniature import Miniature

    catalog = folder / f"catalog-{backbone}"
    if not catalog.is_dir():
        source = Miniature(root=str(folder / "videos"), count=64, height=96, width=160, conditions=("slide_left", "slide_right", "grow", "flood"))
        made = data_recipe({"tiny-cogvideox": "tiny"}.get(backbone, backbone))
        build(Request(source=source, catalog=str(catalog), recipe=made, command="benchmarks.step"), runner=in_process)
        synthesize(Pairs(catalog=str(catalog), providers=(Mined(),)))
    return str(catalog)


def loop_seconds(run: Run, catalog: str, folder: Path) -> tuple[list[float], list[float]]:
    """Wall seconds of each step of a real run but the first two, and what of each is spent in forward, backward and AdamW.

    The second comes from the very same steps: it knows no other load on the machine between two runs.
    """
    inside: list[float] = []
    with world() as here, timed(_Trainer, "_micro", inside), timed(torch.optim.AdamW, "step", inside):
        fit(run, catalog=catalog, folder=folder, world=here)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows if "seconds" in row]
    calls = len(inside) // len(seconds)
    return seconds[2:], [sum(inside[first : first + calls]) for first in range(0, len(inside), calls)][2:]


@contextlib.contextmanager
def timed(owner: type, name: str, seconds: list[float]) -> Iterator[None]:
    """Adds the wall seconds of each call of a method to `seconds`."""
    plain = getattr(owner, name)

    @functools.wraps(plain)
    def watched(*given: Any, **named: Any) -> Any:
        began = time.perf_counter()
        made = plain(*given, **named)
        seconds.append(time.perf_counter() - began)
        return made

    with mock.patch.object(owner, name, watched):
        yield


class Alone(nn.Module):
    """The frozen backbone under a method's face; its gradient flows back to the noisy latents, as beside a method that acts in its first block."""

    def __init__(self, backbone: Backbone) -> None:
        super().__init__()
        self._backbone = (backbone,)

    def forward(self, batch: Batch) -> torch.Tensor:
        """The loss per sample."""
        backbone = self._backbone[0]
        noisy = backbone.objective.noisy(batch.target.video, batch.noise, batch.timesteps).requires_grad_(True)
        return backbone.objective.losses(backbone.forward(noisy, batch.timesteps, batch.target), batch.target.video, batch.noise, batch.timesteps)


def bare_seconds(run: Run, catalog: str, *, update: bool, alone: bool = False) -> tuple[list[float], float, int]:
    """Wall seconds of forward + backward (with `update` AdamW too) on the run's own batches; FLOPs of a sample; trained weights.

    `alone`: of the frozen backbone, without the method.
    """
    facts = backbones.backbone(run.backbone)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    backbone = load_backbone(facts, dtype=dtype, device=device)
    reads = run.method.reads(facts) | backbone.reads()
    index = build_index(Catalog.open(catalog), facts, reads, method=run.method.name)
    sizes = {"global_batch": run.global_batch, "micro_batch": run.micro_batch}
    loader = Loader(index, facts, backbone.objective, seed=run.seed, **sizes, references=reads.references, caption_drop=run.method.caption_drop)
    module = Alone(backbone) if alone else run.method.attach(backbone, run.blocks.wrap)
    optimizer = run.optimizer.build(trained(module).values()) if update else None
    taken = []
    for step in loader.steps(0, run.steps):
        batches = [batch.to(device) for batch in step.micro]
        began = time.perf_counter()
        for batch in batches:
            with torch.autocast(device.type, torch.bfloat16, enabled=dtype == torch.bfloat16):
                losses = module(batch)
            losses.mean().backward()
        if optimizer is not None:
            optimizer.step()
        module.zero_grad(set_to_none=True)
        if device.type == "cuda":
            torch.cuda.synchronize()
        taken.append(time.perf_counter() - began)
    cost = per_sample(module, backbone, batches[0])
    return taken[2:], cost.flops, sum(each.numel() for each in trained(module).values())


def peak(run: Run, catalog: str, way: Literal["loop", "bare", "frozen"], folder: Path) -> float:
    """Most memory in GB of a process that does nothing but three steps: of the loop, of the method and AdamW alone, or of the frozen backbone alone."""
    torch.set_num_threads(1)
    short = replace(run, steps=3)
    if way == "loop":
        loop_seconds(short, catalog, folder)
    else:
        bare_seconds(short, catalog, update=way == "bare", alone=way == "frozen")
    return peak_memory_gb(torch.device("cuda" if torch.cuda.is_available() else "cpu"))


def measure(method: str, catalog: str, backbone: str, steps: int, rounds: int, batch: int, folder: Path) -> list[tuple[str, str]]:
    """Rows of one method."""
    run = replace(
        recipe(None, method, backbone).changed(SETTINGS.get((method, backbone), ())),
        steps=steps,
        global_batch=batch,
        micro_batch=batch,
        blocks=Blocks(),
        evaluation=Evaluation(every=0, samples=1, timesteps=1),
        checkpoints=Checkpoints(every=0, background=False),
    )
    taken: dict[str, list[float]] = {"loop": [], "with AdamW": [], "bare": [], "frozen": []}
    more: list[float] = []
    flops, trained_weights = 0.0, 0
    for turn in range(rounds):
        looped, inside = loop_seconds(run, catalog, folder / f"{method}-{backbone}-{turn}")
        taken["loop"] += looped
        more += [whole / part for whole, part in zip(looped, inside, strict=True)]
        taken["frozen"] += bare_seconds(run, catalog, update=False, alone=True)[0]
        taken["with AdamW"] += bare_seconds(run, catalog, update=True)[0]
        seconds, flops, trained_weights = bare_seconds(run, catalog, update=False)
        taken["bare"] += seconds
    middle = {name: statistics.median(seconds) for name, seconds in taken.items()}
    bare, updated, whole, frozen = middle["bare"], middle["with AdamW"], middle["loop"], middle["frozen"]
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        held = {way: pool.apply(peak, (run, catalog, way, folder / f"{method}-{backbone}-peak")) for way in ("loop", "bare", "frozen")}
    what, speed = f"{method} on {backbone}", flops * batch / bare / 1e9
    return [
        (f"{what}: the frozen backbone's own forward + backward", f"{frozen * 1e3:.1f} ms a step of {batch}"),
        (f"{what}, {trained_weights / 1e6:.2f} M trained: bare forward + backward", f"{bare * 1e3:.1f} ms, {bare / frozen:.2f} x frozen, {speed:.1f} GFLOP/s"),
        (f"{what}: the same + AdamW", f"{updated * 1e3:.1f} ms, {updated / bare:.3f} x bare"),
        (f"{what}: the loop", f"{whole * 1e3:.1f} ms, {whole / bare:.3f} x bare, {whole / updated:.3f} x with AdamW"),
        (f"{what}: most memory of a process", f"{held['loop']:.2f} GB the loop, {held['bare']:.2f} bare with AdamW, {held['frozen']:.2f} the frozen backbone alone"),
        (f"{what}: the loop, against forward, backward and AdamW within its own steps", f"{statistics.median(more):.4f} x"),
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures, prints, appends."""
    parser = argparse.ArgumentParser(description="Loop overhead")
    parser.add_argument("--method", action="append", choices=[*METHODS], help="again for another; left out: all")
    parser.add_argument("--catalog", help="one with all that the method reads; left out: miniature clips are made")
    parser.add_argument("--backbone", help="left out: the method's tiny ones")
    for name, default in (("--steps", 20), ("--rounds", 3), ("--batch", 16)):
        parser.add_argument(name, type=int, default=default)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        asked = [(method, backbone) for method in given.method or METHODS for backbone in ([given.backbone] if given.backbone else METHODS[method])]
        rows = [
            row
            for method, backbone in asked
            for row in measure(method, given.catalog or catalog_of(folder, backbone), backbone, given.steps, given.rounds, given.batch, folder)
        ]
    print(*(f"{what:60s} {figure}" for what, figure in rows), sep="\n")
    typed = "".join(f" --method {method}" for method in given.method or ())
    command = f"python -m benchmarks.step{typed} --steps {given.steps} --rounds {given.rounds} --batch {given.batch}"
    append_row("A method against its frozen backbone, the loop against bare forward and backward", command, rows)


if __name__ == "__main__":
    main()
