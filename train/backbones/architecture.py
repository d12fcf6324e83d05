"""The backbones at their real size without their weights: what their transformers' config.json says, so that memory and operations can be counted.

`shadow(facts)` is a backbone whose weights have shapes, types and no contents. A backbone that can be loaded is not made from
this: it brings its own config. Parameter counts equal the released ones. Exercised by `pytest tests/train/test_plan.py`.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from train.backbones import family
from train.method import Backbone
from vapdata import backbones, tiny_transformer
from vapdata.errors import CallError

_COGVIDEOX_5B = {"num_attention_heads": 48, "num_layers": 42, "use_rotary_positional_embeddings": True}
_COGVIDEOX_15 = _COGVIDEOX_5B | {"patch_size_t": 2, "patch_bias": False, "sample_width": 170, "sample_height": 96, "sample_frames": 81}

CONFIGS: Mapping[str, Mapping[str, Any]] = {
    "cogvideox-2b": {"num_attention_heads": 30, "num_layers": 30},
    "cogvideox-5b": _COGVIDEOX_5B,
    "cogvideox-5b-i2v": _COGVIDEOX_5B | {"in_channels": 32, "use_learned_positional_embeddings": True},
    "cogvideox-1.5-5b": _COGVIDEOX_15,
    "cogvideox-1.5-5b-i2v": _COGVIDEOX_15 | {"in_channels": 32, "ofs_embed_dim": 512},
    "wan2.1-t2v-1.3b": {"num_attention_heads": 12, "num_layers": 30, "ffn_dim": 8960},
    "wan2.1-t2v-14b": {},
    "wan2.1-i2v-14b-480p": {"in_channels": 36, "image_dim": 1280, "added_kv_proj_dim": 5120},
    "hunyuanvideo-i2v": {"image_condition_type": "token_replace"},
    **tiny_transformer.TRANSFORMERS,
}
"""Backbone -> what its transformer/config.json says beside the defaults of diffusers' class."""

CLASSES = {"cogvideox": "CogVideoXTransformer3DModel", "wan": "WanTransformer3DModel", "hunyuan": "HunyuanVideoTransformer3DModel"}
SCHEDULERS = {"cogvideox": "tiny-cogvideox", "wan": "tiny-wan", "hunyuan": "tiny-hunyuan"}
"""Family -> the tiny backbone whose scheduler is the released one, number for number."""


def shadow(facts: backbones.Backbone, dtype: torch.dtype) -> Backbone:
    """The backbone on the device meta, in `dtype` but for what diffusers keeps in float32. Raises CallError for one not listed."""
    import diffusers

    if facts.name not in CONFIGS:
        raise CallError(f"plan: the architecture of {facts.name} is not known. Known: {', '.join(CONFIGS)}")
    made = getattr(diffusers, CLASSES[facts.family])
    with torch.device("meta"):
        transformer: nn.Module = made(**CONFIGS[facts.name])
    narrow(transformer, transformer, dtype)
    tiny = SCHEDULERS[facts.family]
    scheduler = {"_class_name": tiny_transformer.CLASSES[tiny][1], **tiny_transformer.SCHEDULERS[tiny]}
    wrapped: Backbone = family(facts)(facts, transformer, scheduler)
    return wrapped


def narrow(module: nn.Module, transformer: nn.Module, dtype: torch.dtype) -> None:
    """Turns the module's weights into `dtype`, but for those that `transformer` keeps in float32, by the names of their parts."""
    wide = {*(getattr(transformer, "_keep_in_fp32_modules", None) or ())}
    for name, parameter in module.named_parameters():
        if wide.isdisjoint(name.split(".")):
            parameter.data = parameter.data.to(dtype)
