"""A run's folder, opened to be used: its method with trained weights, its backbone, its samples.

The export is taken where there is one, else the newest complete checkpoint, so that a run that is still training can be
looked at. Exercised by `pytest tests/train/test_sample.py`.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from train import METHODS
from train.backbones import load_backbone
from train.checkpoint import newest, read_stamp, restore_weights
from train.export import CARD, TRANSFORMER, load_export, read_card
from train.method import Backbone, Method, MethodModule, unwrapped
from train.samples import Index
from vapdata import backbones, registry
from vapdata.errors import CallError

CONFIG, INDEX, EXPORT = "config.json", "index", "export"


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """What a run has learned, ready to be asked."""

    backbone: Backbone
    method: Method
    module: MethodModule | None
    """None where the backbone itself was trained and exported: then `backbone` is what it became."""
    index: Index
    seed: int
    step: int
    """Optimiser steps that lie behind the weights."""
    weights: Path
    """The folder they were read from."""


def open_run(folder: Path, *, device: torch.device, dtype: torch.dtype, weights: str | None = None) -> TrainedRun:
    """The run in `folder`. `weights` is the diffusers folder it was trained beside, where that was not the backbone's own.

    Raises CallError when `folder` holds no run, or one without weights yet; MissingWeights when the backbone is not here.
    """
    config = _config(folder)
    facts = backbones.backbone(config["backbone"])
    beside = weights or config.get("weights")
    index = Index.load(folder / INDEX)
    kept, described = _kept(folder)
    method = method_from(described, kept)
    trained_backbone = (kept / TRANSFORMER).is_dir()
    backbone = load_backbone(facts, dtype=dtype, device=device, folder=str(kept) if trained_backbone else beside)
    if trained_backbone:
        module, step = None, read_card(kept).step
    elif (kept / CARD).is_file():
        module, step = load_export(kept, backbone), read_card(kept).step
    else:
        attached: Any = method.attach(backbone, unwrapped)
        step = restore_weights(kept, attached)
        module = attached.eval()
    return TrainedRun(backbone=backbone, method=method, module=module, index=index, seed=config["seed"], step=step, weights=kept)


def method_from(described: Mapping[str, Any], where: Path) -> Method:
    """The method's configuration from its name and fields, as a run writes them down."""
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in described.items() if name != "name"}
    try:
        made: Method = registry.load(METHODS, described["name"], "method")(**fields)
    except TypeError as error:
        raise CallError(f"{where}: {described['name']} does not take this configuration ({error}). Use the version of this project that trained it") from error
    return made


def _config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    try:
        config: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CallError(f"--run {folder}: there is no {CONFIG}, so no run. Name the --out of a training run, e.g. --run runs/vap") from error
    except (OSError, ValueError) as error:
        raise CallError(f"{path}: cannot be read as a run's configuration ({error}). Name the --out of a training run") from error
    missing = [name for name in ("backbone", "method", "seed") if name not in config]
    if missing:
        raise CallError(f"{path}: says nothing of {', '.join(missing)}, so it is no run's configuration. Name the --out of a training run")
    return config


def _kept(folder: Path) -> tuple[Path, Mapping[str, Any]]:
    """The folder of the run's weights, and its method as those weights describe it."""
    if (folder / EXPORT / CARD).is_file():
        card = read_card(folder / EXPORT)
        return folder / EXPORT, {"name": card.method or _config(folder)["method"]["name"], **(card.config or _config(folder)["method"])}
    checkpoint = newest(folder)
    if checkpoint is None:
        raise CallError(f"--run {folder}: has neither an export nor a complete checkpoint yet. Wait for the first one (checkpoints.every), or let the run end")
    stamp = read_stamp(checkpoint)
    return checkpoint, {"name": stamp.method, **json.loads(stamp.config)}
