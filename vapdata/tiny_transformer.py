"""The transformers and schedulers of the tiny backbones: the real classes, a million weights, made like the other tiny models.

`tiny-cogvideox` is laid out like CogVideoX-5B-I2V (rotary positions, first-frame latent beside the noisy one along the
channels) but without its learned position table, so that any size and length goes through it. `tiny-wan` is laid out
like Wan2.1-I2V-14B: eight blocks, so that one in four is two, and the last of those not the last block. `tiny-hunyuan` is
laid out like HunyuanVideo-I2V with token replacement. Schedulers are the released ones, number for number.
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
    "tiny-wan": {
        "num_attention_heads": 4,
        "attention_head_dim": 24,
        "in_channels": 36,
        "out_channels": 16,
        "text_dim": 64,
        "freq_dim": 64,
        "ffn_dim": 256,
        "num_layers": 8,
        "image_dim": 64,
        "added_kv_proj_dim": 96,
    },
    "tiny-hunyuan": {
        "num_attention_heads": 4,
        "attention_head_dim": 16,
        "in_channels": 16,
        "out_channels": 16,
        "num_layers": 2,
        "num_single_layers": 3,
        "num_refiner_layers": 2,
        "text_embed_dim": 64,
        "pooled_projection_dim": 32,
        "rope_axes_dim": [4, 6, 6],
        "guidance_embeds": True,
        "image_condition_type": "token_replace",
    },
}
"""Tiny model -> arguments of its class in CLASSES. CogVideoX's sample sizes are latents of 96 x 160 pixels."""

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
    "tiny-wan": {
        "num_train_timesteps": 1000,
        "beta_start": 0.0001,
        "beta_end": 0.02,
        "beta_schedule": "linear",
        "solver_order": 2,
        "solver_type": "bh2",
        "prediction_type": "flow_prediction",
        "predict_x0": True,
        "lower_order_final": True,
        "timestep_spacing": "linspace",
        "final_sigmas_type": "zero",
        "use_flow_sigmas": True,
        "flow_shift": 3.0,
    },
    "tiny-hunyuan": {"num_train_timesteps": 1000, "shift": 7.0},
}
"""Tiny model -> arguments of its scheduler: the released config of CogVideoX-5B-I2V, Wan2.1-I2V-14B-480P and HunyuanVideo-I2V."""

CLASSES = {
    "tiny-cogvideox": ("CogVideoXTransformer3DModel", "CogVideoXDDIMScheduler"),
    "tiny-wan": ("WanTransformer3DModel", "UniPCMultistepScheduler"),
    "tiny-hunyuan": ("HunyuanVideoTransformer3DModel", "FlowMatchEulerDiscreteScheduler"),
}
"""Tiny model -> diffusers' classes of its transformer and its scheduler."""


def settings(name: str) -> dict[str, Any]:
    """What decides the bytes of the two subfolders; empty for a model without a transformer here."""
    return {"transformer": TRANSFORMERS[name], "scheduler": SCHEDULERS[name]} if name in TRANSFORMERS else {}


def makers(name: str) -> dict[str, Callable[[Path], None]]:
    """Subfolder -> what writes it; nothing for a model without a transformer here."""
    if name not in TRANSFORMERS:
        return {}
    return {"transformer": lambda path: _save_transformer(name, path), "scheduler": lambda path: _save_scheduler(name, path)}


def draw(model: Any, salt: str) -> None:
    """Draws the weights of a transformer in place by `tiny_draw.fill`, time and patch embeddings by their fan-in too.

    fill() takes every name with `embedding` in it for a table of vectors with deviation 0.5. A time embedding is two
    linear layers, Wan's patch embedding a convolution: drawn so, they would grow modulation and tokens to tens where
    trained ones have about one.
    """
    import torch

    from vapdata import tiny_draw

    tiny_draw.fill(model, salt)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "embedding." in name and parameter.ndim > 1:
                parameter.mul_(2 * parameter[0].numel() ** -0.5)


def _save_transformer(name: str, path: Path) -> None:
    import diffusers

    from vapdata import tiny_trained

    model = getattr(diffusers, CLASSES[name][0])(**TRANSFORMERS[name])
    draw(model, "transformer")
    tiny_trained.put(model, name, "transformer")
    model.save_pretrained(path, safe_serialization=True)


def _save_scheduler(name: str, path: Path) -> None:
    import diffusers

    getattr(diffusers, CLASSES[name][1])(**SCHEDULERS[name]).save_pretrained(path)
