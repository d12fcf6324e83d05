"""Tiny vision-language models: the real Qwen2.5-VL and Qwen3-VL classes with their processors, drawn as vapdata/tiny.py draws.

Their words are random, but of a small vocabulary of captions, other for other pictures, and they end: the folder's own
generation_config.json says so, as a real model's says how it likes to be asked. Exercised by `pytest tests/vapdata/test_tiny_qwen.py`.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from vapdata import tiny_draw

SPECIAL = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
)  # fmt: skip
CHAT = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% elif part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML as Qwen speaks it."""
TEXT: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 8192,
    "initializer_range": 0.1,
}
QWEN25_VISION: dict[str, Any] = {
    "depth": 2,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "fullatt_block_indexes": [1],
}
QWEN3_VISION: dict[str, Any] = {
    "depth": 3,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_heads": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
}
ENDING = (24, 1.1)
"""After 24 tokens the end mark becomes likelier with each one: an untrained model has no other reason to stop."""
NAMES = ("tiny-qwen2.5-vl", "tiny-qwen3-vl")


def settings(name: str) -> list[Any]:
    """What decides the bytes of a tiny vision-language model."""
    return [SPECIAL, CHAT, TEXT, QWEN25_VISION if name == NAMES[0] else QWEN3_VISION, ENDING, sorted(pieces()[0].items())]


def makers(name: str) -> dict[str, Callable[[Path], None]]:
    """What writes it, whole."""
    return {"": partial(_save, name)}


def pieces() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Byte pieces and the merges that lead from letters to whole words with a space before them; special tokens last."""
    from tokenizers import pre_tokenizers

    vocabulary = dict.fromkeys(sorted(pre_tokenizers.ByteLevel.alphabet()))
    merges: dict[tuple[str, str], None] = {}
    for word in (f"Ġ{word}" for word in tiny_draw.WORDS.split()):
        for end in range(2, len(word) + 1):
            merges[word[: end - 1], word[end - 1]] = None
            vocabulary[word[:end]] = None
    return {piece: number for number, piece in enumerate([*vocabulary, *SPECIAL])}, list(merges)


def _save(name: str, path: Path) -> None:
    from transformers import GenerationConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = _tokenizer()
    model = _qwen25(tokenizer) if name == NAMES[0] else _qwen3(tokenizer)
    tiny_draw.fill(model, name)
    words = {tokenizer.convert_tokens_to_ids(f"Ġ{word}") for word in tiny_draw.WORDS.split()}
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    model.generation_config = GenerationConfig(
        eos_token_id=[end],
        pad_token_id=tokenizer.pad_token_id,
        suppress_tokens=[number for number in range(len(tokenizer)) if number not in words and number != end],
        no_repeat_ngram_size=2,
        exponential_decay_length_penalty=ENDING,
    )
    model.save_pretrained(path, safe_serialization=True)
    _processor(name, tokenizer).save_pretrained(path)


def _tokenizer() -> Any:
    from transformers import Qwen2Tokenizer

    vocabulary, merges = pieces()
    return Qwen2Tokenizer(
        vocab=vocabulary,
        merges=merges,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        additional_special_tokens=list(SPECIAL[3:]),
        model_max_length=8192,
    )


def _ids(tokenizer: Any) -> dict[str, Any]:
    named = {"image_token_id": "<|image_pad|>", "video_token_id": "<|video_pad|>", "vision_start_token_id": "<|vision_start|>", "vision_end_token_id": "<|vision_end|>"}
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in named.items()}


def _text(tokenizer: Any, rope: dict[str, Any]) -> dict[str, Any]:
    ends = {"bos_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {**TEXT, "vocab_size": len(tokenizer), "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": [2, 3, 3], **rope}, **ends}


def _qwen25(tokenizer: Any) -> Any:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration(Qwen2_5_VLConfig(text_config=_text(tokenizer, {}), vision_config=QWEN25_VISION, **_ids(tokenizer)))


def _qwen3(tokenizer: Any) -> Any:
    from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration

    text = {**_text(tokenizer, {"mrope_interleaved": True}), "head_dim": 16}
    return Qwen3VLForConditionalGeneration(Qwen3VLConfig(text_config=text, vision_config=QWEN3_VISION, **_ids(tokenizer)))


def _processor(name: str, tokenizer: Any) -> Any:
    """The real processors, with pictures of a few dozen tokens."""
    import transformers

    patch = 14 if name == NAMES[0] else 16
    image = transformers.Qwen2VLImageProcessor(patch_size=patch, size={"shortest_edge": 4 * (2 * patch) ** 2, "longest_edge": 16 * (2 * patch) ** 2})
    if name == NAMES[0]:
        video = transformers.Qwen2VLVideoProcessor(size={"shortest_edge": 4 * 28**2, "longest_edge": 8 * 28**2})
        return transformers.Qwen2_5_VLProcessor(image, tokenizer, video, chat_template=CHAT)
    video = transformers.Qwen3VLVideoProcessor(size={"shortest_edge": 8 * 32**2, "longest_edge": 64 * 32**2})
    return transformers.Qwen3VLProcessor(image, tokenizer, video, chat_template=CHAT)
