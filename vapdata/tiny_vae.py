"""The VAEs of the tiny Wan and HunyuanVideo models: the real classes with the real strides, a quarter million weights.

Exercised by `pytest tests/vapdata/test_tiny.py` and the tests of the latents.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "tiny-wan": (
        "AutoencoderKLWan",
        {"base_dim": 8, "z_dim": 16, "dim_mult": [1, 2, 4, 4], "num_res_blocks": 1},
    ),
    "tiny-hunyuan": (
        "AutoencoderKLHunyuanVideo",
        {"block_out_channels": [8, 16, 16, 16], "layers_per_block": 1, "norm_num_groups": 4, "latent_channels": 16},
    ),
}
"""Tiny model -> class in diffusers and its arguments; means, deviations and scaling are the classes' own, which are the released ones."""


def makers(name: str) -> dict[str, Callable[[Path], None]]:
    """Subfolder -> what writes it; nothing for a model without a VAE here."""
    return {"vae": partial(_save, name, *CONFIGS[name])} if name in CONFIGS else {}


def _save(name: str, model_class: str, config: dict[str, Any], path: Path) -> None:
    import diffusers

    from vapdata import tiny_draw, tiny_trained

    model = getattr(diffusers, model_class)(**config)
    tiny_draw.fill(model, "vae")
    tiny_trained.put(model, name, "vae")
    model.save_pretrained(path, safe_serialization=True)
