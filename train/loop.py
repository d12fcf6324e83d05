"""The loop: one for all methods, and it knows none of them by name.

A step takes `global_batch` samples in micro-steps, sums their weighted losses over micro-steps and processes, divides
by the true number of samples, and updates what the method trains. Everything random follows from (seed, step,
sample), so a run stopped anywhere and resumed, on another number of processes too, sees the same samples and the
same noise. `python -m train.vap` and its like; exercised by `pytest tests/train/test_loop.py`.
"""

import contextlib
import json
import logging
import resource
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from catalogs.store import Catalog
from train import evaluate
from train.backbones import load_backbone
from train.checkpoint import Saver, Stamp, newest, refuse, restore
from train.data import Loader, Step
from train.export import Card, export, export_backbone
from train.flops import FlopCount, mfu, per_sample
from train.index import Index, build_index
from train.method import Backbone, Objective
from train.optimizer import average, averages, set_rate, trained
from train.record import Recorder
from train.run import Run
from train.world import World
from vapdata import backbones
from vapdata.errors import CallError, RunError

log = logging.getLogger(__name__)

CONFIG = "config.json"


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
    """The newest evaluation."""
    export: Path | None
    """Folder of the exported weights; None when it was stopped."""


def fit(run: Run, *, catalog: str, folder: Path, world: World, resume: bool = False, weights: str | None = None) -> Finished:
    """Trains. `folder` is the run's own; `weights` a diffusers folder whose transformer replaces the backbone's.

    Raises CallError before any time is spent when catalog, backbone, folder or checkpoint do not fit, RunError when
    the run cannot go on (a non-finite loss, a full disk).
    """
    facts = backbones.backbone(run.backbone)
    _check_folder(folder, resume)
    index = _shared_index(run, facts, catalog, folder, world, resume)
    dtype = _compute(run, world.device)
    backbone = load_backbone(facts, dtype=dtype, device=world.device, folder=weights)
    trainer = _Trainer(run, index, backbone, folder, world, dtype)
    resumed = trainer.resume() if resume else 0
    world.first_alone(lambda: _keep_config(run, index, folder, trainer, resumed))
    with Recorder(folder, run.logging, steps=run.steps, writes=world.is_first) as recorder, _on_sigterm() as asked:
        recorder.continue_from(resumed)
        return trainer.train(recorder, asked, resumed)


class _Trainer:
    """One run's state: the method's module, its optimiser and averages, the loader, the evaluation grid."""

    def __init__(self, run: Run, index: Index, backbone: Backbone, folder: Path, world: World, dtype: torch.dtype) -> None:
        self.run, self.index, self.backbone, self.folder, self.world, self.dtype = run, index, backbone, folder, world, dtype
        self.reads = run.method.reads(backbone.facts)
        self.loader = Loader(
            index,
            backbone.facts,
            backbone.objective,
            seed=run.seed,
            global_batch=run.global_batch,
            micro_batch=run.micro_batch,
            rank=world.rank,
            ranks=world.ranks,
            references=self.reads.references,
            caption_drop=run.method.caption_drop,
            checksums=run.checksums,
            pin=world.device.type == "cuda",
        )
        self.loader.check()
        self.module = run.method.attach(backbone, run.blocks.wrap)
        parameters = trained(self.module)
        self.parallel: nn.Module = self.module
        if world.ranks > 1:
            ids = [world.device.index] if world.device.type == "cuda" else None
            self.parallel = DistributedDataParallel(self.module, device_ids=ids, broadcast_buffers=False, gradient_as_bucket_view=True)
        self.optimizer = run.optimizer.build(parameters.values())
        self.ema = averages(self.module) if run.optimizer.ema else None
        self.saver = Saver(folder, run.checkpoints, self._stamp(0))
        self.entries = _grid(run, index, backbone.objective)
        self.first = torch.empty(0, dtype=torch.float64)
        self.last: dict[str, Any] = {}
        self.cost: FlopCount | None = None

    def resume(self) -> int:
        """Goes on from the newest complete checkpoint; the number of steps that lie behind it."""
        path = newest(self.folder)
        if path is None:
            raise CallError(f"{self.folder} has no complete checkpoint to resume from. Leave --resume out and give an --out that is new, or wait for the first one (checkpoints.every)")
        refuse(path, self._stamp(0))
        step = restore(path, self.module, self.optimizer, self.ema)
        log.info("resumed_from %s (step %d)", path.name, step)
        return step

    def train(self, recorder: Recorder, asked: "_Asked", resumed: int) -> Finished:
        """Every step from `resumed` on."""
        start = resumed
        if resumed:
            self.first = evaluate.load_baseline(self.folder, self.entries)
        else:
            self._evaluate_first(recorder)
        steps = self.loader.steps(start, self.run.steps)
        stopped = False
        with contextlib.closing(steps):
            for step in steps:
                row = self._step(step, asked)
                done = step.number + 1
                stopped = bool(row.pop("stop")) and done < self.run.steps
                if _due(done, self.run.evaluation.every) or done == self.run.steps:
                    row.update(self._evaluation())
                recorder.write({"step": done, **row})
                self._keep(done, stopped)
                start = done
                if stopped:
                    break
        self.saver.finish()
        self.last = self.last or (self._evaluation() if not stopped else {})
        return Finished(step=start, stopped=stopped, first=_plain(evaluate.summary(self.first, self.first, self.entries)), last=self.last, export=None if stopped else self._export(start))

    # One step

    def _step(self, step: Step, asked: "_Asked") -> dict[str, Any]:
        """Forward, backward, update; what is known afterwards. Raises RunError for a loss that is not finite."""
        began = time.perf_counter()
        rate = self.run.optimizer.rate(step.number, self.run.steps)
        set_rate(self.optimizer, rate)
        found = [self._micro(micro, step, last=place == len(step.micro) - 1) for place, micro in enumerate(step.micro)]
        norm = torch.nn.utils.clip_grad_norm_(trained(self.module).values(), self.run.optimizer.clip or float("inf"))
        loss, stop, waited, size = self.world.total([sum(float(each.sum()) for each in found), float(asked.stop), step.waited_s, float(step.bytes)])
        if not (torch.isfinite(norm) and loss == loss and abs(loss) != float("inf")):
            raise self._not_finite(step, found, float(norm))
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            average(self.ema, self.module, self.run.optimizer.ema)
        seconds = time.perf_counter() - began + step.waited_s
        return {"loss": loss, "grad_norm": float(norm), "lr": rate, "epoch": step.epoch, "stop": stop, **self._speed(step, seconds, waited, size)}

    def _micro(self, micro: Any, step: Step, *, last: bool) -> Tensor:
        """Forward and backward of one micro-batch; its weighted losses divided by the global batch's true size."""
        batch = micro.to(self.world.device)
        quiet = self.parallel.no_sync() if isinstance(self.parallel, DistributedDataParallel) and not last else contextlib.nullcontext()
        with quiet:
            with self._autocast():
                losses = self.parallel(batch)
            share = losses.float() * batch.weights / step.size
            (share.sum() * self.world.ranks).backward()  # DistributedDataParallel takes the mean over processes
        return share.detach().cpu()

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16)

    def _speed(self, step: Step, seconds: float, waited: float, size: float) -> dict[str, Any]:
        """Rates of one step over all processes."""
        if self.cost is None:
            self.cost = per_sample(self.module, self.backbone, step.micro[0])
        return {
            "samples": step.size,
            "seconds": round(seconds, 6),
            "samples_per_s": step.size / seconds,
            "tokens_per_s": step.size * self.cost.tokens / seconds,
            "wait_share": min(1.0, waited / self.world.ranks / seconds),
            "mb_per_s": size / 1e6 / seconds,
            "peak_memory_gb": _peak_memory(self.world.device),
            "model_tflops": step.size * self.cost.flops / 1e12,
            **mfu(self.cost.flops * step.size / seconds / self.world.ranks, self.world.device, self.dtype, self.run.logging.peak_tflops),
        }

    def _not_finite(self, step: Step, found: list[Tensor], norm: float) -> RunError:
        """The clips of the step that went wrong, on disk, and the sentence that says so."""
        rows = [
            {"target": clip, "references": [side.clip_ids[place] for side in micro.references], "timestep": float(micro.timesteps[place]), "seed": micro.seeds[place], "loss": str(float(losses[place] * step.size))}
            for micro, losses in zip(step.micro, found, strict=True)
            for place, clip in enumerate(micro.target.clip_ids)
        ]
        path = self.folder / f"nonfinite-step-{step.number + 1:08d}-rank-{self.world.rank}.json"
        path.write_text(json.dumps({"step": step.number + 1, "grad_norm": str(norm), "samples": rows}, indent=1))
        return RunError(
            f"step {step.number + 1}: the loss or its gradient is not finite (gradient norm {norm:g}); the step was not taken. The batch's clips stand in {path}. "
            f"Try a smaller rate or a longer warm-up (--set optimizer.lr=..., --set optimizer.warmup=...), or leave a clip out (--where \"clip_id <> '...'\")"
        )

    # Evaluating

    def _evaluate_first(self, recorder: Recorder) -> None:
        self.first = self._grid_losses(shuffled=False)
        self.world.first_alone(lambda: evaluate.save_baseline(self.folder, self.entries, self.first))
        recorder.write({"step": 0, **self._evaluation(self.first)})

    def _evaluation(self, now: Tensor | None = None) -> dict[str, Any]:
        now = self._grid_losses(shuffled=False) if now is None else now
        said = _plain(evaluate.summary(now, self.first, self.entries))
        if self.reads.references:
            exchanged = self._grid_losses(shuffled=True)
            gain, error = evaluate.paired(exchanged - now)
            said.update(eval_loss_shuffled=float(exchanged.mean()), eval_reference_gain=gain, eval_reference_gain_se=error)
            with self._autocast():
                said["reference_sensitivity"] = evaluate.reference_sensitivity(
                    self.entries, self.module, self.loader, self.backbone.objective, device=self.world.device, batch=self._grid_batch
                )
        self.last = said
        return said

    @property
    def _grid_batch(self) -> int:
        return self.run.evaluation.batch or self.run.micro_batch

    def _grid_losses(self, *, shuffled: bool) -> Tensor:
        was = self.module.training
        self.module.eval()
        with self._autocast():
            own = evaluate.losses(
                self.entries,
                self.module,
                self.loader,
                device=self.world.device,
                batch=self._grid_batch,
                bucket=lambda sample: self.index.samples[sample].bucket,
                rank=self.world.rank,
                ranks=self.world.ranks,
                shuffled=shuffled,
            )
        self.module.train(was)
        return torch.tensor(self.world.total(own.tolist()), dtype=torch.float64)

    # Keeping

    def _keep(self, done: int, stopped: bool) -> None:
        last = done == self.run.steps
        if _due(done, self.run.checkpoints.every) or last or stopped:
            self.saver.save(done, self.module, self.optimizer, self.ema, block=last or stopped)
        if _due(done, self.run.samples.every):
            self.world.first_alone(lambda: self._sample(done))

    def _sample(self, done: int) -> None:
        from train.sample import write_samples

        some = [entry.sample for entry in self.entries]
        samples = list(dict.fromkeys(some))[: self.run.samples.count]
        with self._autocast():
            write_samples(
                self.module,
                self.backbone,
                self.loader,
                samples,
                self.folder / "samples" / f"step-{done:08d}",
                steps=self.run.samples.steps,
                guidance=self.run.samples.guidance,
                seed=self.run.seed,
            )

    def _export(self, step: int) -> Path:
        made = self.folder / "export"
        self.world.first_alone(lambda: self._write_export(made, step))
        return made

    def _write_export(self, made: Path, step: int) -> None:
        card = Card(backbone=self.backbone.facts.name, catalog=self.index.catalog, index=self.index.fingerprint, step=step)
        if self.run.method.trains_backbone:
            export_backbone(made, self.backbone, card)
        else:
            export(made, self.module, self.run.method, self.backbone, card)

    def _stamp(self, step: int) -> Stamp:
        return Stamp(
            method=self.run.method.name,
            config=json.dumps(self.run.describe()["method"], sort_keys=True),
            backbone=self.backbone.facts.name,
            catalog=self.index.catalog,
            index=self.index.fingerprint,
            generation=self.index.generation,
            step=step,
            ranks=self.world.ranks,
            global_batch=self.run.global_batch,
            seed=self.run.seed,
        )


class _Asked:
    """Whether SIGTERM asked the run to end."""

    stop = False


@contextlib.contextmanager
def _on_sigterm() -> Iterator[_Asked]:
    """SIGTERM sets a flag that the loop looks at after each step, so that it can save and end well."""
    asked = _Asked()

    def note(number: int, frame: Any) -> None:
        asked.stop = True

    before = signal.signal(signal.SIGTERM, note)
    try:
        yield asked
    finally:
        signal.signal(signal.SIGTERM, before)


def _due(done: int, every: int) -> bool:
    return every > 0 and done % every == 0


def _grid(run: Run, index: Index, objective: Objective) -> list[evaluate.Entry]:
    samples = index.validation
    return evaluate.grid(run.evaluation, samples, [index.samples[sample].target for sample in samples], objective, run.seed)


def _check_folder(folder: Path, resume: bool) -> None:
    if resume and not folder.is_dir():
        raise CallError(f"--resume: there is no run in {folder}. Give the --out of the run to go on with")
    if not resume and (folder / CONFIG).exists():
        raise CallError(f"{folder} holds a run already. Go on with it: --resume; or give another --out")


def _shared_index(run: Run, facts: backbones.Backbone, catalog: str, folder: Path, world: World, resume: bool) -> Index:
    """The index: resolved by rank 0 and kept in the run's folder, read there by everybody; a resumed run asks no query."""
    kept = folder / "index"

    def resolve() -> None:
        reads = run.method.reads(facts) | _backbone_reads(facts)
        index = build_index(Catalog.open(catalog), facts, reads, where=run.where, product=run.product, method=run.method.name)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            index.save(kept)
        except OSError as error:
            raise RunError(f"{folder}: cannot be written ({error.strerror}). Give an --out that can") from error

    if not resume:
        world.first_alone(resolve)
    index = Index.load(kept)
    if resume and Path(index.catalog) != Path(catalog):
        raise CallError(f"--resume: this run was trained on the catalog {index.catalog}, --catalog names {catalog}. Type --catalog {index.catalog}, or give another --out")
    return index


def _backbone_reads(facts: backbones.Backbone) -> Any:
    from train.backbones import family

    return family(facts).reads_of(facts)


def _compute(run: Run, device: torch.device) -> torch.dtype:
    wanted = ("bf16" if device.type == "cuda" else "f32") if run.compute == "auto" else run.compute
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def _keep_config(run: Run, index: Index, folder: Path, trainer: _Trainer, resumed: int) -> None:
    """config.json: the effective configuration and what it met. A resumed run adds where it went on."""
    path = folder / CONFIG
    before = json.loads(path.read_text()) if path.exists() else {}
    parameters = trained(trainer.module)
    described = {
        **run.describe(),
        "catalog": index.catalog,
        "video_product": index.product,
        "index": index.fingerprint,
        "generation": index.generation,
        "train_samples": len(index.train),
        "validation_samples": len(index.validation),
        "validation_is_train": index.validation_is_train,
        "trained_parameters": sum(each.numel() for each in parameters.values()),
        "processes": trainer.world.ranks,
        "steps_per_epoch": trainer.loader.steps_per_epoch,
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "resumed_from": [*before.get("resumed_from", []), *([resumed] if resumed else [])],
    }
    path.write_text(json.dumps(described, indent=1, default=str))


def _peak_memory(device: torch.device) -> float:
    """GB at the peak: of the device's allocator, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    return {name: float(value) if isinstance(value, Tensor) else value for name, value in row.items()}
