"""The transformer and scheduler of tiny CogVideoX: the real classes, 1.7 million weights, made like the other tiny models.

Laid out like CogVideoX-5B-I2V (rotary positions, first-frame latent beside the noisy one along the channels) but without
its learned position table, so that any size and length goes through it. The scheduler is 5B-I2V's, number for number.
Exercised by `pytest tests/vapdata/test_tiny_transformer.py`.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

TRANSFORMERS: dict[str, dict[str, Any]] = {
    "tiny-cogvideox": {
        "num_attention_heads": 8,
        "attention_head_dim": 16,
        "in_channels": 32,
        "out_channels": 16,
        "time_embed_dim": 128,
        "text_embed_dim": 64,
        "num_layers": 4,
        "sample_width": 20,
        "sample_height": 12,
        "sample_frames": 9,
        "max_text_seq_length": 32,
        "use_rotary_positional_embeddings": True,
    },
}
"""Tiny model -> arguments of diffusers' CogVideoXTransformer3DModel. Sample sizes are latents of 96 x 160 pixels."""

SCHEDULERS: dict[str, dict[str, Any]] = {
    "tiny-cogvideox": {
        "num_train_timesteps": 1000,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 0,
        "prediction_type": "v_prediction",
        "timestep_spacing": "trailing",
        "rescale_betas_zero_snr": True,
        "snr_shift_scale": 1.0,
    },
}
"""Tiny model -> arguments of diffusers' CogVideoXDDIMScheduler: the released config of CogVideoX-5B-I2V."""


def settings(name: str) -> list[Any]:
    """What decides the bytes of the two subfolders; empty for a model without a transformer here."""
    return [TRANSFORMERS[name], SCHEDULERS[name]] if name in TRANSFORMERS else []


def makers(name: str) -> dict[str, Callable[[Path], None]]:
    """Subfolder -> what writes it; nothing for a model without a transformer here."""
    if name not in TRANSFORMERS:
        return {}
    return {"transformer": lambda path: _save_transformer(name, path), "scheduler": lambda path: _save_scheduler(name, path)}


def draw(model: Any, salt: str) -> None:
    """Draws the weights of a CogVideoX transformer in place by `tiny_draw.fill`, the time embeddings by their fan-in too.

    fill() takes every name with `embedding` in it for a table of vectors with deviation 0.5. A time embedding is two
    linear layers: drawn so, it would grow modulation to tens where a trained one has about one.
    """
    import torch

    from vapdata import tiny_draw

    tiny_draw.fill(model, salt)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding." in name and parameter.ndim == 2:
                parameter.mul_(2 * parameter.shape[1] ** -0.5)


def _save_transformer(name: str, path: Path) -> None:
    from diffusers import CogVideoXTransformer3DModel

    model = CogVideoXTransformer3DModel(**TRANSFORMERS[name])
    draw(model, "transformer")
    model.save_pretrained(path, safe_serialization=True)


def _save_scheduler(name: str, path: Path) -> None:
    from diffusers import CogVideoXDDIMScheduler

    CogVideoXDDIMScheduler(**SCHEDULERS[name]).save_pretrained(path)
