"""A backbone's transformer and its scheduler's config, read from this machine: what every family loads in the same way.

From the hub's cache, a local folder, or a tiny model made here; sharded or whole safetensors, never a download.
Exercised by `pytest tests/train/backbones`.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from vapdata import backbones, weights
from vapdata.errors import CallError
from vapdata.weights import Weight


def stored(
    class_name: str, facts: backbones.Backbone, *, dtype: torch.dtype, device: torch.device, folder: str | None = None, whole: bool = False
) -> tuple[nn.Module, dict[str, Any]]:
    """The transformer, of diffusers' class `class_name`, and `scheduler_config.json`.

    `folder` as for `load_backbone`; `whole`: the hub holds the transformer in one file, not in shards. Raises
    MissingWeights that says what to type, CallError for a folder that holds another kind of model.
    """
    import diffusers

    model, scheduler = needed(facts, folder, whole=whole)
    weights.require((model, scheduler))
    path = weights.find(model)
    made_for = json.loads((path / "config.json").read_text()).get("_class_name")
    if made_for != class_name:
        raise CallError(f"{path}: config.json is of {made_for}; {facts.name} wants {class_name}. Name the folder of a {facts.name}.")
    transformer = getattr(diffusers, class_name).from_pretrained(path, torch_dtype=dtype, local_files_only=True, use_safetensors=True)
    return transformer.to(device), json.loads((weights.find(scheduler) / "scheduler_config.json").read_text())


def needed(facts: backbones.Backbone, folder: str | None = None, *, whole: bool = False) -> tuple[Weight, Weight]:
    """The transformer and the scheduler's config; from `folder` what it has, the rest from the backbone's repository."""
    model = Weight(
        repo=facts.repo,
        aliases=facts.aliases,
        subfolder="transformer",
        stem="diffusion_pytorch_model",
        hub_files=() if whole or facts.tiny else ("diffusion_pytorch_model.safetensors.index.json",),
    )
    scheduler = Weight(repo=facts.repo, aliases=facts.aliases, subfolder="scheduler", files=("scheduler_config.json",))
    if folder is None:
        return model, scheduler
    root = Path(folder).expanduser().resolve()
    if (root / "scheduler" / "scheduler_config.json").is_file():
        scheduler = replace(scheduler, repo=str(root), aliases=())
    return replace(model, repo=str(root), aliases=(), hub_files=()), scheduler


def check_config(facts: backbones.Backbone, config: Any, wanted: dict[str, object]) -> None:
    """Raises CallError when the weights are those of another backbone: when their config has not what is wanted."""
    wrong = [f"{name} {getattr(config, name)} (wanted {value})" for name, value in wanted.items() if getattr(config, name) != value]
    if wrong:
        raise CallError(f"these transformer weights are not {facts.name}'s: {', '.join(wrong)}. Name the folder of a {facts.name}.")
