"""The loop: one for all methods, and it knows none of them by name.

A step takes `global_batch` samples in micro-steps, sums their weighted losses over micro-steps and processes, divides
by the true number of samples, and updates what the method trains. Everything random follows from (seed, step,
sample), so a run stopped anywhere and resumed, on another number of processes too, sees the same samples and the
same noise. `python -m train.vap` and its like; exercised by `pytest tests/train/test_loop.py`.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from train import begin
from train.backbones import load_backbone
from train.batch import Batch
from train.checkpoint import Saver, newest, refuse, restore
from train.data import Loader, Step
from train.evaluate import Evaluator
from train.export import Card, export, export_backbone, fingerprint
from train.method import Backbone
from train.mirror import Mirror
from train.optimizer import average, averages, set_rate, trained
from train.parallel import Layout, clip
from train.rank_log import RankLog, rank_log
from train.record import Recorder
from train.run import Run
from train.samples import Index
from train.speed import Speed
from train.trained_run import EXPORT
from train.world import STOP, Asked, World, asked_to_stop
from vapdata import backbones
from vapdata.errors import RunError

log = logging.getLogger("train")


@dataclass(frozen=True, kw_only=True)
class Finished:
    """How a run ended."""

    step: int
    """Optimiser steps that lie behind it."""
    stopped: bool
    """SIGTERM ended it before its last step; the checkpoint is written."""
    first: dict[str, Any]
    """The evaluation at step 0."""
    last: dict[str, Any]
    """The newest evaluation; empty when it was stopped before one."""
    export: Path | None
    """Folder of the exported weights; None when it was stopped."""
    already: bool = False
    """It was finished before, and nothing was done."""


def fit(run: Run, *, catalog: str | None, folder: Path, world: World, resume: bool = False, weights: str | None = None) -> Finished:
    """Trains. `folder` is the run's own; `catalog` may be None for a resumed run; `weights` is a folder whose transformer replaces the backbone's.

    Raises CallError before any time is spent when catalog, backbone, folder or checkpoint do not fit, RunError when
    the run cannot go on (a damaged tensor, a non-finite loss, a full disk).
    """
    facts = backbones.backbone(run.backbone)
    begin.check_folder(folder, resume=resume)
    beside = begin.trained_weights(weights, facts.name) if weights else None
    index = begin.shared_index(run, facts, catalog, folder, world, resume=resume)
    mirror = Mirror(run.checkpoints.mirror) if run.checkpoints.mirror else None
    if mirror and not resume:
        world.first_alone(lambda: mirror.begin(folder))
    start = begin.resumed_at(run, index, folder, world) if resume else 0
    if resume and begin.is_finished(run, folder, start) and (rows := begin.evaluations(folder)):
        if mirror:
            world.first_alone(lambda: mirror.finish(folder))
        return Finished(step=start, stopped=False, first=rows[0], last=rows[-1], export=folder / EXPORT, already=True)
    dtype = begin.compute_dtype(run, world.device)
    backbone = load_backbone(facts, dtype=dtype, device=world.device, folder=beside)
    trainer = _Trainer(run, index, backbone, folder, world, dtype, mirror)
    with contextlib.closing(trainer):
        if start:
            trainer.restore()
        world.first_alone(lambda: begin.keep_config(run, index, folder, weights=beside, met=trainer.met(), resumed=start if resume else None))
        with Recorder(folder, run.logging, steps=run.steps, writes=world.is_first) as recorder, rank_log(folder, world) as own, asked_to_stop(folder) as asked:
            recorder.continue_from(start or -1)
            finished = trainer.train(recorder, own, asked, start)
    if mirror:
        world.first_alone(lambda: mirror.finish(folder))
    return finished


class _Trainer:
    """One run's state: the method's module, its optimiser and averages, the loader, the evaluator, the checkpoints."""

    def __init__(self, run: Run, index: Index, backbone: Backbone, folder: Path, world: World, dtype: torch.dtype, mirror: Mirror | None) -> None:
        self.run, self.index, self.folder, self.world, self.dtype = run, index, folder, world, dtype
        self.layout = run.parallel.over(world)
        self.loader = _loader(run, index, backbone, self.layout)
        world.together(self.loader.check)
        self.stamp = begin.stamp_of(run, index, world, fingerprint(backbone))  # before a method that trains the backbone changes it
        self.backbone = self.layout.backbone(backbone, run.method)
        with _seeded(run.seed, world.device):
            self.module = run.method.attach(self.backbone, self.layout.wrap(run.blocks.wrap))
        self.speed = Speed(self.module, self.backbone, world, dtype, run.logging.peak_tflops)
        if self.layout.in_step:
            with self.layout.alone():
                self.speed.know(self.loader.one_of_each())
        self.parallel = self.layout.spread(self.module, dtype)
        self.asked = self.parallel if self.layout.is_sharded else self.module  # DistributedDataParallel is for gradients
        self.parameters = [*trained(self.module).values()]
        self.optimizer = run.optimizer.build(self.parameters)
        self.ema = averages(self.module) if run.optimizer.ema else None
        self.evaluator = Evaluator(run.evaluation, self.asked, self.loader, backbone.objective, self.layout, seed=run.seed, folder=folder)
        self.saver = Saver(folder, run.checkpoints, self.stamp, then=mirror.keep if mirror else None)

    def close(self) -> None:
        """Lets the catalog's files go."""
        self.loader.close()

    def met(self) -> dict[str, Any]:
        """What config.json says besides configuration and index."""
        numbers = sum(each.numel() for each in self.parameters)
        return {"trained_parameters": numbers, "processes": self.world.ranks, "steps_per_epoch": self.loader.steps_per_epoch, "backbone_weights": self.stamp.weights}

    def restore(self) -> None:
        """Goes back to the newest complete checkpoint; its stamp was looked at but for the backbone's weights. Changes nothing on disk."""
        path = newest(self.folder)
        assert path is not None, "the caller has seen it"
        refuse(path, self.stamp)
        self.evaluator.go_on()
        log.info("resumed_from %s (step %d)", path, restore(path, self.module, self.optimizer, self.ema))

    def train(self, recorder: Recorder, own: RankLog, asked: Asked, start: int) -> Finished:
        """Every step from `start` on, then the export."""
        last: dict[str, Any] = {}
        if not start:
            with self._autocast():
                last = self.evaluator.begin()
            recorder.write({"step": 0, **last})
        done, stopped = start, False
        if not self.parameters:  # every step is the same, so the last one is taken at once
            done = self._to_the_end(recorder, last)
        try:
            with contextlib.closing(self.loader.steps(done, self.run.steps)) as steps:
                for step in steps:
                    row, mine, stop = self._step(step, asked)
                    own.write({"step": step.number + 1, **mine})
                    done = step.number + 1
                    stopped = stop and done < self.run.steps
                    if _due(done, self.run.evaluation.every) or done == self.run.steps:
                        last = self._evaluate()
                        row |= last
                    recorder.write({"step": done, **row})
                    self._keep(done, stopped)
                    if stopped:
                        break
        finally:
            self.saver.finish()
        if stopped:
            self.world.first_alone(lambda: (self.folder / STOP).unlink(missing_ok=True))
            return Finished(step=done, stopped=True, first=self.evaluator.first, last=last, export=None)
        return Finished(step=done, stopped=False, first=self.evaluator.first, last=last or self._evaluate(), export=self._export(done))

    def _to_the_end(self, recorder: Recorder, last: dict[str, Any]) -> int:
        """The number of the last step, whose row and checkpoint are written: for a method of which nothing learns."""
        log.info("nothing of this method learns: its evaluation is the run")
        recorder.write({"step": self.run.steps, **last})
        self._keep(self.run.steps, False)
        return self.run.steps

    # One step

    def _step(self, step: Step, asked: Asked) -> tuple[dict[str, Any], dict[str, Any], bool]:
        """Forward, backward, update; what is known afterwards, of all processes and of this one, and whether any was asked to stop.

        Raises RunError for a loss that is not finite.
        """
        began = time.perf_counter()
        rate = self.run.optimizer.rate(step.number, self.run.steps)
        set_rate(self.optimizer, rate)
        found = [self._micro(micro, step, last=place == len(step.micro) - 1) for place, micro in enumerate(step.micro)]
        self.layout.finish_gradients(self.parameters)
        norm = clip(self.parameters, self.run.optimizer.clip)
        share = torch.cat(found).double().sum().item()
        loss, stop, waited_s, bytes_read = self.world.total([share, float(asked.stop), step.waited_s, float(step.bytes)])
        if not (math.isfinite(norm) and math.isfinite(loss)):
            raise self._not_finite(step, found, norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            average(self.ema, self.module, self.run.optimizer.ema)
        seconds = time.perf_counter() - began + step.waited_s
        rates = self.speed.row(step, seconds=seconds, waited_s=waited_s, bytes_read=bytes_read)
        mine = {"seconds": round(seconds, 6), "waited_s": round(step.waited_s, 6), "bytes": step.bytes, "loss": share, "peak_memory_gb": rates["peak_memory_gb"]}
        return {"loss": loss, "grad_norm": norm, "lr": rate, "epoch": step.epoch, **rates}, mine, stop > 0

    def _micro(self, micro: Batch, step: Step, *, last: bool) -> Tensor:
        """Forward and backward of one micro-batch; its weighted losses divided by the global batch's true size, and by the processes that see it."""
        batch = micro.to(self.world.device)
        with self.layout.gathering(self.parallel, last=last):
            with self._autocast():
                losses = self.parallel(batch)
            shares = losses.float() * batch.weights / (step.size * self.run.parallel.sequence)
            (shares.sum() * self.world.ranks).backward()  # gradients become the mean over processes
        return shares.detach()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _not_finite(self, step: Step, found: list[Tensor], norm: float) -> RunError:
        """The clips of the step that went wrong, on disk, and the sentence that says so."""
        rows = [
            {
                "target": clip,
                "references": [side.clip_ids[place] for side in micro.references],
                "timestep": float(micro.timesteps[place]),
                "seed": micro.seeds[place],
                "weight": float(micro.weights[place]),
                "loss": str(float(shares[place] * step.size * self.run.parallel.sequence)),
            }
            for micro, shares in zip(step.micro, found, strict=True)
            for place, clip in enumerate(micro.target.clip_ids)
        ]
        path = self.folder / f"nonfinite-step-{step.number + 1:08d}-rank-{self.world.rank}.json"
        path.write_text(json.dumps({"step": step.number + 1, "grad_norm": str(norm), "clips": step.clip_ids, "samples": rows}, indent=1))
        return RunError(
            f"step {step.number + 1}: the loss or its gradient is not finite (gradient norm {norm:g}); the step was not taken. The batch's clips stand in {path}. "
            f"Try a smaller rate or a longer warm-up (--set optimizer.lr=..., --set optimizer.warmup=...), or leave a clip out (--where \"clip_id <> '...'\")"
        )

    def _evaluate(self) -> dict[str, Any]:
        with self._autocast():
            return self.evaluator.now()

    # Keeping

    def _keep(self, done: int, stopped: bool) -> None:
        last = done == self.run.steps
        if _due(done, self.run.checkpoints.every) or last or stopped:
            self.saver.save(done, self.module, self.optimizer, self.ema, block=last or stopped)
        if _due(done, self.run.samples.every):
            self._sample(done) if self.layout.in_step else self.world.first_alone(lambda: self._sample(done))

    def _sample(self, done: int) -> None:
        from train.sampler import write_samples

        samples = list(dict.fromkeys(entry.sample for entry in self.evaluator.entries))[: self.run.samples.count]
        folder, settings = self.folder / "samples" / f"step-{done:08d}", self.run.samples
        made_with: Any = self.asked
        together = self.world if self.layout.in_step else None
        with self._autocast():
            write_samples(
                made_with, self.backbone, self.loader, samples, folder, steps=settings.steps, guidance=settings.guidance, seed=self.run.seed, together=together
            )

    def _export(self, step: int) -> Path:
        made, whole = self.folder / EXPORT, self.layout.whole
        learned = self.backbone.transformer if self.run.method.trains_backbone else self.module
        ema = self._backbone_averages() if self.run.method.trains_backbone else self.ema
        tensors = whole(learned.state_dict())
        averaged = None if ema is None else whole(ema)
        self.world.first_alone(lambda: self._write_export(made, step, tensors, averaged))
        return made

    def _write_export(self, made: Path, step: int, tensors: Mapping[str, Tensor], ema: Mapping[str, Tensor] | None) -> None:
        method = self.run.method
        config = json.loads(self.stamp.config)
        card = Card(
            backbone=self.backbone.facts.name, catalog=self.index.catalog, index=self.index.fingerprint, step=step, method=method.name, config=config, weights=self.stamp.weights
        )
        if method.trains_backbone:
            export_backbone(made, self.backbone, card, tensors=tensors, ema=ema)
        else:
            export(made, self.module, method, self.backbone, card, tensors=tensors, ema=ema)

    def _backbone_averages(self) -> dict[str, Tensor] | None:
        """The moving average under the transformer's own names."""
        if self.ema is None:
            return None
        names = {id(parameter): name for name, parameter in trained(self.module).items()}
        return {name: self.ema[names[id(parameter)]] for name, parameter in self.backbone.transformer.named_parameters() if id(parameter) in names}


def _loader(run: Run, index: Index, backbone: Backbone, layout: Layout) -> Loader:
    return Loader(
        index,
        backbone.facts,
        backbone.objective,
        seed=run.seed,
        global_batch=run.global_batch,
        micro_batch=run.micro_batch,
        rank=layout.data_rank,
        ranks=layout.data_ranks,
        references=run.method.reads(backbone.facts).references,
        caption_drop=run.method.caption_drop,
        draws=run.draws,
        checksums=run.checksums,
        pin=layout.world.device.type == "cuda",
    )


@contextlib.contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Parameters that begin at random begin alike in every process and every run of this seed."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0
