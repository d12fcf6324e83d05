"""What comes before the first step: whether the call can be followed, what the run reads, and what it writes down about itself.

A run's folder:

    config.json       the whole configuration, with what it met; `--resume` reads it
    index/            which samples, and where their bytes lie; a resumed run asks the catalog no query
    evaluation.json   the evaluation grid with its losses at step 0
    metrics.jsonl     one row a step, see train/record.py
    checkpoints/  export/  samples/

Exercised by `pytest tests/train/test_loop.py`.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from catalogs.store import Catalog
from train.backbones import family
from train.batch import Reads
from train.checkpoint import Stamp, newest, read_stamp, refuse
from train.export import CARD, TRANSFORMER, read_card
from train.record import METRICS, read_metrics
from train.run import Run
from train.samples import Index
from train.trained_run import CONFIG, EXPORT, INDEX
from train.world import World
from vapdata import backbones
from vapdata.errors import CallError, RunError

log = logging.getLogger("train")


def check_folder(folder: Path, *, resume: bool) -> None:
    """Raises CallError when there is no run to go on with, or one that would be overwritten."""
    if resume and not folder.is_dir():
        raise CallError(f"--resume: there is no run in {folder}. Give the --out of the run to go on with")
    if not resume and (folder / CONFIG).exists():
        raise CallError(f"{folder} holds a run already. Go on with it: --resume; or give another --out")


def stored_config(folder: Path) -> Mapping[str, Any]:
    """What config.json says. Raises CallError when it is not there or no configuration."""
    check_folder(folder, resume=True)
    path = folder / CONFIG
    try:
        stored: Mapping[str, Any] = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise CallError(f"--resume: {path} cannot be read ({error}), so no run has begun there. Give the --out of a run, or leave --resume out") from error
    return stored


def trained_weights(weights: str, backbone: str) -> str:
    """The folder in diffusers' layout that `--weights` means: itself, or the export of a run of train.full. Raises CallError when it is neither."""
    given = Path(weights).expanduser().resolve()
    for folder in (given, given / EXPORT):
        if (folder / TRANSFORMER).is_dir():
            made_for = read_card(folder).backbone if (folder / CARD).is_file() else backbone
            if made_for != backbone:
                raise CallError(f"--weights {weights}: holds a trained {made_for}, the run's backbone is {backbone}. Type --backbone {made_for}, or name other weights")
            return str(folder)
    if (given / CONFIG).is_file():
        raise CallError(f"--weights {weights}: this run has exported no backbone: it has not come to its end, or trains a method beside one. Name a finished run of train.full")
    raise CallError(f"--weights {weights}: there is no folder {TRANSFORMER}/ in it. Name a folder in diffusers' layout, or a finished run of train.full")


def shared_index(run: Run, facts: backbones.Backbone, catalog: str | None, folder: Path, world: World, *, resume: bool) -> Index:
    """What the run reads: resolved by rank 0 and kept in the run's folder, read there by everybody; a resumed run asks no query."""
    if resume:
        index = _of_this_catalog(Index.load(folder / INDEX), catalog)
        if (begun := index.reads.noised) != run.draws.noised_first:
            raise CallError(f"--resume: the run began with draws.noised_first={begun}. Type --set draws.noised_first={begun}, or give another --out")
        return index
    world.first_alone(lambda: _resolve(run, facts, catalog or "catalog", folder))
    return Index.load(folder / INDEX)


def _resolve(run: Run, facts: backbones.Backbone, catalog: str, folder: Path) -> None:
    from train.index import build_index

    reads = _reads(run, facts)
    index = build_index(Catalog.open(catalog), facts, reads, where=run.where, product=run.product, method=run.method.name, caption=run.caption)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        replace(index, catalog=anywhere(catalog)).save(folder / INDEX)
    except OSError as error:
        raise RunError(f"{folder}: cannot be written ({error.strerror}). Give an --out that can") from error


def _reads(run: Run, facts: backbones.Backbone) -> Reads:
    """What method, backbone and draws want together. Raises CallError for noised first frames where no single first frame is read."""
    reads = run.method.reads(facts) | family(facts).needs(facts)
    if run.draws.noised_first and reads.first != 1:
        what = "reads no first-frame latent" if not reads.first else f"reads latents of the first {reads.first} frames"
        raise CallError(f"draws.noised_first={run.draws.noised_first}: train.{run.method.name} on {facts.name} {what}. Type --set draws.noised_first=0")
    return replace(reads, noised=run.draws.noised_first)


def _of_this_catalog(index: Index, catalog: str | None) -> Index:
    """The index, of `catalog` where the run's own has moved there. Raises CallError for another catalog."""
    if catalog is None or anywhere(catalog) == index.catalog:
        return index
    if _is_there(index.catalog):
        raise CallError(f"--resume: this run was trained on the catalog {index.catalog}, --catalog names {catalog}. Leave --catalog out, or give another --out")
    log.info("%s is gone; going on with %s, whose files must be the same", index.catalog, catalog)
    return replace(index, catalog=anywhere(catalog))


def anywhere(catalog: str) -> str:
    """The catalog's address as it is understood from any folder."""
    return catalog if "://" in catalog else os.path.abspath(catalog)


def _is_there(catalog: str) -> bool:
    try:
        Catalog.open(catalog)
    except (CallError, RunError):
        return False
    return True


def compute_dtype(run: Run, device: torch.device) -> torch.dtype:
    """What forward and backward are computed in."""
    wanted = ("bf16" if device.type == "cuda" else "f32") if run.compute == "auto" else run.compute
    return torch.bfloat16 if wanted == "bf16" else torch.float32


def stamp_of(run: Run, index: Index, world: World, weights: str = "") -> Stamp:
    """What this run's checkpoints say of it. `weights`: the backbone's fingerprint, where it is loaded."""
    return Stamp(
        method=run.method.name,
        config=json.dumps(asdict(run.method), sort_keys=True),  # type: ignore[call-overload]
        backbone=run.backbone,
        catalog=index.catalog,
        index=index.fingerprint,
        generation=index.generation,
        step=0,
        ranks=world.ranks,
        global_batch=run.global_batch,
        seed=run.seed,
        weights=weights,
    )


def resumed_at(run: Run, index: Index, folder: Path, world: World) -> int:
    """The steps that lie behind the newest checkpoint, 0 without one. Raises CallError for another run's, and one beyond the run's steps."""
    path = newest(folder)
    if path is None:
        if (index.method, index.backbone) != (run.method.name, run.backbone):
            raise CallError(f"{folder} is a run of train.{index.method} on {index.backbone}, this is train.{run.method.name} on {run.backbone}. Give another --out")
        log.info("%s has no complete checkpoint yet: it begins at step 0", folder)
        return 0
    refuse(path, stamp_of(run, index, world))
    step = read_stamp(path).step
    if step > run.steps:
        raise CallError(f"--resume: {folder} is at step {step} already, {run.steps} are wanted in all. Type --steps {step} or more")
    return step


def is_finished(run: Run, folder: Path, step: int) -> bool:
    """Whether nothing is left to do: the last step is taken, and what was learned is exported."""
    return step == run.steps and (folder / EXPORT / CARD).is_file() and read_card(folder / EXPORT).step == step


def evaluations(folder: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl that hold an evaluation; none when the file is gone."""
    if not (folder / METRICS).is_file():
        return []
    return [row for row in read_metrics(folder) if "eval_loss" in row]


def keep_config(run: Run, index: Index, folder: Path, *, weights: str | None, met: Mapping[str, Any], resumed: int | None) -> None:
    """config.json: the whole configuration and what it met. A resumed run adds the step at which it went on."""
    path = folder / CONFIG
    before = json.loads(path.read_text()) if path.exists() else {}
    described = {
        **run.describe(),
        "weights": weights,
        "catalog": index.catalog,
        "video_product": index.product,
        "index": index.fingerprint,
        "generation": index.generation,
        "train_samples": len(index.train),
        "validation_samples": len(index.validation),
        "validation_is_train": index.validation_is_train,
        **met,
        "versions": {"torch": torch.__version__, "python": sys.version.split()[0]},
        "resumed_from": [*before.get("resumed_from", []), *([] if resumed is None else [resumed])],
    }
    partial = path.with_name(f".{CONFIG}.partial")
    partial.write_text(json.dumps(described, indent=1))
    os.replace(partial, path)
