"""Tiny text and image encoders of Wan, HunyuanVideo and BLIP-2: the real classes, drawn as vapdata/tiny.py draws.

`tiny-wan`: UMT5 with its tokenizer, CLIP's vision tower, and an open_clip ViT with an XLM-RoBERTa text tower.
`tiny-hunyuan`: LLaVA and CLIP's text tower with their tokenizers. `tiny-blip2`: BLIP-2's retrieval model with its BERT tokenizer. Grids and token
counts are the real ones (16 x 16 patches and CLS, 24 x 24 for LLaVA, a template of 103 tokens); only widths and depths
are small. Exercised by `pytest tests/vapdata/test_tiny_text.py`.
"""

import gzip
import json
import string
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

from vapdata import tiny_draw

UMT5: dict[str, Any] = {
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_heads": 4,
    "num_layers": 2,
    "feed_forward_proj": "gated-gelu",
    "dropout_rate": 0.0,
}
CLIP_VISION: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
    "projection_dim": 48,
}
"""ViT-H/14 in small: 257 tokens."""
XLM_ROBERTA: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
}
CLIP_XLM: dict[str, Any] = {
    "embed_dim": 48,
    "vision_cfg": {"image_size": 224, "patch_size": 14, "width": 64, "head_width": 32, "layers": 3},
    "text_cfg": {"hf_model_name": "xlm-roberta", "hf_tokenizer_name": "xlm-roberta", "hf_pooler_type": "mean_pooler"},
}
"""open_clip's xlm-roberta-large-ViT-H-14 in small. The joint space is narrower than the patches, as in the real one."""
LLAVA_VISION: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": 96,
    "patch_size": 4,
    "hidden_act": "quick_gelu",
    "projection_dim": 32,
}
"""CLIP-L/14-336 in small: 24 x 24 patches, the 576 image tokens that the template counts on."""
LLAMA: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "rope_theta": 500_000.0,
    "rms_norm_eps": 1e-5,
}
CLIP_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 32,
}
BLIP2_VISION: dict[str, Any] = {
    "hidden_size": 88,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "image_size": 224,
    "patch_size": 14,
    "hidden_act": "gelu",
}
"""EVA's ViT-g/14 in small: 257 tokens."""
BLIP2_QFORMER: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "encoder_hidden_size": 88,
    "use_qformer_text_input": True,
}

MERGES = 2000
"""Merges of CLIP's own tokenizer that the tiny one keeps, from the first."""
LLAMA_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Llama 3 cuts a text into words."""
LLAMA_SPECIAL = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<image>", "<pad>")
TEMPLATE_WORDS = (
    "system Describe user assistant the video by detailing following aspects according to reference image The main content and "
    "theme of color shape size texture quantity text spatial relationships objects Actions events behaviors temporal physical "
    "movement changes background environment light style atmosphere camera angles movements transitions used in"
)
"""Words of HunyuanVideo's template, each one token as in Llama 3's vocabulary, so that the crop falls where it should."""
CHINESE = "一只红色蓝绿的圆形方块狗猫在向右左移动球跑草地上两个男人女孩"
"""Characters that the multilingual tiny tokenizers know; the others become <unk>."""


def settings(name: str) -> list[Any]:
    """What decides the bytes of a tiny model's text and image encoders. JSON-able."""
    if name == "tiny-wan":
        return [UMT5, CLIP_VISION, XLM_ROBERTA, CLIP_XLM, umt5_vocabulary(), xlm_vocabulary()]
    if name == "tiny-hunyuan":
        return [LLAVA_VISION, LLAMA, CLIP_TEXT, MERGES, sorted(llama_vocabulary().items())]
    return [BLIP2_VISION, BLIP2_QFORMER, bert_vocabulary()]


def makers(name: str) -> dict[str, Callable[[Path], None]]:
    """Subfolder of a tiny model -> what writes it, in diffusers' folder layout."""
    if name == "tiny-wan":
        return {
            "text_encoder": _save_umt5,
            "tokenizer": _save_umt5_tokenizer,
            "image_encoder": _save_clip_vision,
            "image_processor": _save_wan_processor,
            "clip_xlm": _save_clip_xlm,
            "xlm_roberta": _save_xlm_roberta,
        }
    if name == "tiny-hunyuan":
        return {
            "text_encoder": _save_llava,
            "tokenizer": _save_llama_tokenizer,
            "text_encoder_2": _save_clip_text,
            "tokenizer_2": _save_clip_tokenizer,
            "image_processor": _save_llava_processor,
        }
    return {"": _save_blip2}


def umt5_vocabulary() -> list[tuple[str, float]]:
    """Pieces of at most two letters, so that nearly every word falls into several tokens; and some Chinese."""
    short = [(piece, score) for piece, score in tiny_draw.vocabulary() if len(piece.strip("▁<>/")) <= 2 or piece.startswith("<")]
    return short + [(character, -1.0) for character in dict.fromkeys(CHINESE)]


def xlm_vocabulary() -> list[tuple[str, float]]:
    """XLM-RoBERTa's special pieces, then whole words as in the tiny T5, and Chinese in pairs of characters too."""
    special = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    pairs = [first + second for first, second in pairwise(CHINESE)]
    chinese = [(piece, -1.0) for piece in dict.fromkeys([*CHINESE, *pairs])]
    return special + [one for one in tiny_draw.vocabulary() if not one[0].startswith("<")] + chinese + [("<mask>", 0.0)]


def bert_vocabulary() -> dict[str, int]:
    """BERT's special tokens, characters and pairs of letters at a word's start and within it, and whole words."""
    letters = [*string.ascii_lowercase, *string.digits, *string.punctuation]
    pairs = [first + second for first in string.ascii_lowercase for second in string.ascii_lowercase]
    inside = [f"##{piece}" for piece in (*string.ascii_lowercase, *string.digits, *pairs)]
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *letters, *inside, *tiny_draw.WORDS.split(), "[DEC]"]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def llama_vocabulary() -> dict[str, int]:
    """The 256 bytes, whole words with and without a space before them, and the special tokens last."""
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = dict.fromkeys([*TEMPLATE_WORDS.split(), *tiny_draw.WORDS.split()])
    pieces = [*letters, "ĊĊ", *words, *(f"Ġ{word}" for word in words), *LLAMA_SPECIAL]
    return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}


def _save(model: Any, salt: str, path: Path) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    tiny_draw.fill(model, salt)
    model.save_pretrained(path, safe_serialization=True)


def _save_umt5(path: Path) -> None:
    from transformers import UMT5Config, UMT5EncoderModel

    _save(UMT5EncoderModel(UMT5Config(vocab_size=len(umt5_vocabulary()), **UMT5)), "umt5", path)


def _save_umt5_tokenizer(path: Path) -> None:
    from transformers import T5Tokenizer

    T5Tokenizer(vocab=umt5_vocabulary(), extra_ids=0, model_max_length=512).save_pretrained(path)


def _save_clip_vision(path: Path) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    _save(CLIPVisionModel(CLIPVisionConfig(**CLIP_VISION)), "image_encoder", path)


def _save_wan_processor(path: Path) -> None:
    from transformers import CLIPImageProcessor

    CLIPImageProcessor().save_pretrained(path)


def _save_clip_xlm(path: Path) -> None:
    import open_clip
    from safetensors.torch import save_file
    from transformers import XLMRobertaConfig

    with_folder = path.with_name("xlm_roberta.config")  # open_clip takes the text tower's shape from a folder only
    XLMRobertaConfig(vocab_size=len(xlm_vocabulary()), **XLM_ROBERTA).save_pretrained(with_folder)
    text = {**CLIP_XLM["text_cfg"], "hf_model_name": str(with_folder), "hf_model_pretrained": False}
    model = open_clip.CustomTextCLIP(**{**CLIP_XLM, "text_cfg": text})
    tiny_draw.fill(model, "clip_xlm")
    for file in with_folder.iterdir():
        file.unlink()
    with_folder.rmdir()
    path.mkdir()
    preprocess = {"mean": tiny_draw.CLIP_MEAN, "std": tiny_draw.CLIP_STD, "interpolation": "bicubic", "resize_mode": "shortest"}
    (path / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP_XLM, "preprocess_cfg": preprocess}, indent=2))
    save_file(model.state_dict(), path / "open_clip_model.safetensors")


def _save_xlm_roberta(path: Path) -> None:
    from transformers import XLMRobertaConfig, XLMRobertaTokenizer

    XLMRobertaConfig(vocab_size=len(xlm_vocabulary()), **XLM_ROBERTA).save_pretrained(path)
    XLMRobertaTokenizer(vocab=xlm_vocabulary(), model_max_length=512).save_pretrained(path)


def _save_llava(path: Path) -> None:
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vocabulary = llama_vocabulary()
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**LLAVA_VISION),
        text_config=LlamaConfig(vocab_size=len(vocabulary), pad_token_id=vocabulary["<pad>"], **LLAMA),
        image_token_index=vocabulary["<image>"],
        pad_token_id=vocabulary["<pad>"],
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    _save(LlavaForConditionalGeneration(config), "llava", path)


def _save_llama_tokenizer(path: Path) -> None:
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = llama_vocabulary()
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA_SPLIT), behavior="isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    start = LLAMA_SPECIAL[0]
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{start} $A", special_tokens=[(start, vocabulary[start])])
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=start,
        eos_token=LLAMA_SPECIAL[1],
        pad_token="<pad>",
        additional_special_tokens=list(LLAMA_SPECIAL[2:6]),
        padding_side="right",
        model_max_length=8192,
    ).save_pretrained(path)


def _save_llava_processor(path: Path) -> None:
    from transformers import CLIPImageProcessor

    side = LLAVA_VISION["image_size"]
    CLIPImageProcessor(size={"shortest_edge": side}, crop_size={"height": side, "width": side}).save_pretrained(path)


def _save_clip_text(path: Path) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary, _ = _clip_pieces()
    start, end = len(vocabulary) - 2, len(vocabulary) - 1
    config = CLIPTextConfig(vocab_size=len(vocabulary), bos_token_id=start, eos_token_id=end, pad_token_id=end, **CLIP_TEXT)
    _save(CLIPTextModel(config), "clip_text", path)


def _save_clip_tokenizer(path: Path) -> None:
    from transformers import CLIPTokenizer

    vocabulary, merges = _clip_pieces()
    CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=77).save_pretrained(path)


def _clip_pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges as CLIP builds them: bytes, bytes that end a word, merged pieces, two marks."""
    from open_clip import tokenizer

    with gzip.open(tokenizer.default_bpe(), "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : MERGES + 1]
    merges = [(line.split()[0], line.split()[1]) for line in lines]
    letters = list(tokenizer.bytes_to_unicode().values())
    pieces = [*letters, *(f"{letter}</w>" for letter in letters), *(first + second for first, second in merges)]
    return {piece: number for number, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}, merges


def _save_blip2(path: Path) -> None:
    from transformers import BertTokenizer, Blip2Config, Blip2ForImageTextRetrieval, BlipImageProcessor

    vocabulary = bert_vocabulary()
    words = {**BLIP2_QFORMER, "vocab_size": len(vocabulary)}
    config = Blip2Config(vision_config=BLIP2_VISION, qformer_config=words, num_query_tokens=4, image_text_hidden_size=32, image_token_index=len(vocabulary) - 1)
    _save(Blip2ForImageTextRetrieval(config), "blip2", path)
    BlipImageProcessor(size={"height": 224, "width": 224}).save_pretrained(path)
    BertTokenizer(vocab=vocabulary, model_max_length=512).save_pretrained(path)
