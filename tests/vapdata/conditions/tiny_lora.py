"""Image-to-video pipelines of the tiny models in the hub's layout, and LoRA files made for them by diffusers' own saver."""

import json
import shutil
from pathlib import Path

from vapdata import tiny

PIPELINES: dict[str, tuple[str, dict[str, tuple[str, str]]]] = {
    "tiny-cogvideox": (
        "CogVideoXImageToVideoPipeline",
        {
            "scheduler": ("diffusers", "CogVideoXDDIMScheduler"),
            "text_encoder": ("transformers", "T5EncoderModel"),
            "tokenizer": ("transformers", "T5Tokenizer"),
            "transformer": ("diffusers", "CogVideoXTransformer3DModel"),
            "vae": ("diffusers", "AutoencoderKLCogVideoX"),
        },
    ),
    "tiny-wan": (
        "WanImageToVideoPipeline",
        {
            "image_encoder": ("transformers", "CLIPVisionModel"),
            "image_processor": ("transformers", "CLIPImageProcessor"),
            "scheduler": ("diffusers", "UniPCMultistepScheduler"),
            "text_encoder": ("transformers", "UMT5EncoderModel"),
            "tokenizer": ("transformers", "T5Tokenizer"),
            "transformer": ("diffusers", "WanTransformer3DModel"),
            "vae": ("diffusers", "AutoencoderKLWan"),
        },
    ),
    "tiny-hunyuan": (
        "HunyuanVideoImageToVideoPipeline",
        {
            "image_processor": ("transformers", "CLIPImageProcessor"),
            "scheduler": ("diffusers", "FlowMatchEulerDiscreteScheduler"),
            "text_encoder": ("transformers", "LlavaForConditionalGeneration"),
            "text_encoder_2": ("transformers", "CLIPTextModel"),
            "tokenizer": ("transformers", "PreTrainedTokenizerFast"),
            "tokenizer_2": ("transformers", "CLIPTokenizer"),
            "transformer": ("diffusers", "HunyuanVideoTransformer3DModel"),
            "vae": ("diffusers", "AutoencoderKLHunyuanVideo"),
        },
    ),
}
"""Tiny model -> what `model_index.json` says: class, and library and class of each part."""


def pipeline_folder(name: str, folder: Path) -> Path:
    """The tiny model as the hub holds such a pipeline, in `folder`."""
    kind, parts = PIPELINES[name]
    made = tiny.folder(name)
    for part in parts:
        shutil.copytree(made / part, folder / part)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": kind, "_diffusers_version": "0.36.0", **{part: list(each) for part, each in parts.items()}}))
    return folder


def lora_file(name: str, folder: Path, *, seed: int, size: float = 1.0) -> Path:
    """LoRA weights of rank 4 for a tiny model's attention, drawn from `seed`; `size` 0 changes nothing."""
    import diffusers
    import torch
    from peft import LoraConfig, get_peft_model_state_dict

    kind, parts = PIPELINES[name]
    transformer = getattr(diffusers, parts["transformer"][1]).from_pretrained(tiny.folder(name) / "transformer", local_files_only=True)
    transformer.add_adapter(LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    generator = torch.Generator().manual_seed(seed)
    layers = {key: torch.randn(value.shape, generator=generator) * (size if "lora_B" in key else 0.3) for key, value in get_peft_model_state_dict(transformer).items()}
    getattr(diffusers, kind).save_lora_weights(folder, transformer_lora_layers=layers)
    return folder / "pytorch_lora_weights.safetensors"
