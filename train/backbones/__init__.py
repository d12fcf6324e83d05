"""The video transformers that methods train beside, one file a family.

`FAMILIES` names the class of each; `load_backbone` finds a backbone's weights on this machine and wraps them. A new
family is one file here and one line below. Exercised by `pytest tests/train/backbones`.
"""

from typing import Any

import torch

from train.method import Backbone
from vapdata import backbones, registry
from vapdata.errors import CallError

FAMILIES = {
    "cogvideox": "train.backbones.cogvideox:CogVideoX",
    "wan": "train.backbones.wan:Wan",
    "hunyuan": "train.backbones.hunyuan:Hunyuan",
}
"""Family of the backbone's facts -> `module:class` of its wrapper."""


def load_backbone(facts: backbones.Backbone, *, dtype: torch.dtype, device: torch.device, folder: str | None = None) -> Backbone:
    """The backbone with its weights in `dtype` on `device`, frozen and in eval mode.

    `folder` is a folder in diffusers' layout whose `transformer/` (and `scheduler/`, where it has one) stand for the
    hub's: that is how a backbone made by `train.full` is used. Nothing is downloaded. Raises MissingWeights that says
    what to type, CallError for a family without a wrapper or a folder that holds another kind of model.
    """
    wrapper: Backbone = family(facts).load(facts, dtype=dtype, device=device, folder=folder)
    return wrapper


def family(facts: backbones.Backbone) -> Any:
    """The wrapper's class. Its `needs(facts)` tells what the backbone wants of every clip, with nothing loaded."""
    if facts.family not in FAMILIES:
        known = ", ".join(name for name, each in backbones.BACKBONES.items() if each.family in FAMILIES)
        raise CallError(f"training beside {facts.name} is not possible yet: no wrapper for the family {facts.family}. Use one of {known}.")
    return registry.load(FAMILIES, facts.family, "backbone family")
