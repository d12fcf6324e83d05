"""open_clip's ViT and its Hugging Face text tower, token by token in the space that they share.

open_clip itself gives one vector for a picture and one for a text; keywords need every patch and every token there.
Legend: b batch, n tokens or patches, d joint width, w width of the vision tower.
Exercised by `pytest tests/vapdata/encoders/test_keywords.py`.
"""

import json
from pathlib import Path
from typing import Any

from vapdata.errors import CallError


def load(towers: Path, text: Path, model_id: str) -> tuple[Any, dict[str, Any]]:
    """open_clip's two towers from a folder in its format, and the picture settings that stand there.

    `text` is the folder of the text tower's own config: open_clip's names it by a hub id that would be downloaded.
    """
    import open_clip
    from open_clip.model import CustomTextCLIP

    config = json.loads((towers / "open_clip_config.json").read_text())
    told = config["model_cfg"]["text_cfg"]
    if "hf_model_name" not in told:
        raise CallError(
            f"keywords: {model_id} has no Hugging Face text tower, wanted XLM-RoBERTa's. Use --set keywords.model=laion/CLIP-ViT-H-14-frozen-xlm-roberta-large-laion5B-s13B-b90k"
        )
    settings = {**config["model_cfg"], "text_cfg": {**told, "hf_model_name": str(text), "hf_model_pretrained": False}}
    model = CustomTextCLIP(**settings)
    open_clip.load_checkpoint(model, str(towers / "open_clip_model.safetensors"))
    return model, config.get("preprocess_cfg", {})


def text_tokens(model: Any, ids: Any) -> Any:
    """Every token's output of the text tower, each through the projection that the pooled output goes through: (b, n, d)."""
    tower = model.text
    mask = (ids != tower.config.pad_token_id).long()
    return tower.proj(tower.transformer(input_ids=ids, attention_mask=mask).last_hidden_state)


def patch_tokens(model: Any, pixels: Any) -> tuple[Any, Any]:
    """Patches in the joint space (b, n, d): last block, final norm, projection; and after the last block but one (b, n, w)."""
    visual = model.visual
    depth = len(visual.transformer.resblocks)
    found = visual.forward_intermediates(pixels, indices=[depth - 2, depth - 1], intermediates_only=True, output_fmt="NLC")
    penultimate, last = found["image_intermediates"]
    return visual.ln_post(last) @ visual.proj, penultimate
