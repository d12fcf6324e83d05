"""Models of the released sizes with random weights, in the folders that encoders load: right for speed and memory alone.

    python -m benchmarks.encode --real       draws each into a temporary folder (up to 17 GB) and measures it

Shapes are those of the released configurations. Tokenizers are the tiny models': a caption has other tokens then, of which
there are as many as a text tower reads, or as the caption has letters.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vapdata import tiny
from vapdata.backbones import backbone

_T5_XXL = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_heads": 64, "num_layers": 24, "feed_forward_proj": "gated-gelu", "dropout_rate": 0.0}
_LLAMA_8B = {
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "max_position_embeddings": 8192, "vocab_size": 128320, "rms_norm_eps": 1e-5,
}  # fmt: skip
_CLIP_L = {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 24, "num_attention_heads": 16, "image_size": 336, "patch_size": 14}
_CLIP_H = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 16, "image_size": 224, "patch_size": 14}
_CLIP_L_TEXT = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12, "vocab_size": 49408}


def save_vae(name: str, folder: Path) -> None:
    """The VAE of a backbone. The classes' defaults are the released configurations."""
    import diffusers

    facts = backbone(name).vae
    torch.manual_seed(0)
    getattr(diffusers, facts.model_class)().save_pretrained(folder / facts.subfolder, safe_serialization=True)


def save_t5(folder: Path, device: str) -> None:
    """CogVideoX's text encoder, T5 v1.1 XXL."""
    from transformers import T5Config, T5EncoderModel

    _save(lambda: T5EncoderModel(T5Config(vocab_size=32128, **_T5_XXL)), folder / "text_encoder", device)
    _borrow("tiny-cogvideox", "tokenizer", folder)


def save_umt5(folder: Path, device: str) -> None:
    """Wan's text encoder, UMT5 XXL."""
    from transformers import UMT5Config, UMT5EncoderModel

    _save(lambda: UMT5EncoderModel(UMT5Config(vocab_size=256384, **_T5_XXL)), folder / "text_encoder", device)
    _borrow("tiny-wan", "tokenizer", folder)


def save_llava(folder: Path, device: str) -> None:
    """HunyuanVideo-I2V's LLaVA: Llama 3 8B with CLIP-L/14-336."""
    from transformers import AutoTokenizer, CLIPImageProcessor, CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    _borrow("tiny-hunyuan", "tokenizer", folder)
    ids = AutoTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True).get_vocab()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**_CLIP_L, hidden_act="quick_gelu"),
        text_config=LlamaConfig(**_LLAMA_8B, rope_theta=500_000.0, pad_token_id=ids["<pad>"]),
        image_token_index=ids["<image>"],
        pad_token_id=ids["<pad>"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    _save(lambda: LlavaForConditionalGeneration(config), folder / "text_encoder", device)
    side = _CLIP_L["image_size"]
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(folder / "image_processor")


def save_clip_text(folder: Path, device: str) -> None:
    """HunyuanVideo's CLIP-L text tower."""
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    _borrow("tiny-hunyuan", "tokenizer_2", folder)
    end = AutoTokenizer.from_pretrained(folder / "tokenizer_2", local_files_only=True).eos_token_id
    _save(lambda: CLIPTextModel(CLIPTextConfig(**_CLIP_L_TEXT, eos_token_id=end)), folder / "text_encoder_2", device)


def save_clip_vision(folder: Path, device: str) -> None:
    """Wan's image encoder, CLIP ViT-H/14."""
    from transformers import CLIPVisionConfig, CLIPVisionModel

    _save(lambda: CLIPVisionModel(CLIPVisionConfig(**_CLIP_H, hidden_act="gelu")), folder / "image_encoder", device)
    _borrow("tiny-wan", "image_processor", folder)


def _save(make: Callable[[], Any], folder: Path, device: str) -> None:
    """Draws a model in bf16, on the GPU where there is one, since billions of numbers take a CPU minutes; and writes it."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = make()
    finally:
        torch.set_default_dtype(before)
    model.save_pretrained(folder, safe_serialization=True)


def _borrow(name: str, subfolder: str, folder: Path) -> None:
    shutil.copytree(tiny.folder(name) / subfolder, folder / subfolder)
