"""HunyuanVideo-I2V's conversation with LLaVA: the template, and which of its tokens' rows are kept.

Exercised by `pytest tests/vapdata/encoders/test_llava.py`.
"""

from collections.abc import Sequence
from typing import Any

from vapdata.backbones import Backbone
from vapdata.errors import CallError

TEMPLATE = (
    "<|start_header_id|>system<|end_header_id|>\n\n<image>\nDescribe the video by detailing the following aspects according to the reference image: "
    "1. The main content and theme of the video."
    "2. The color, shape, size, texture, quantity, text, and spatial relationships of the objects."
    "3. Actions, events, behaviors temporal relationships, physical movement changes of the objects."
    "4. background environment, light, style and atmosphere."
    "5. camera angles, movements, and transitions used in the video:<|eot_id|>\n\n"
    "<|start_header_id|>user<|end_header_id|>\n\n{}<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n"
)
"""The conversation that HunyuanVideo-I2V was trained on, word for word; what a caption means depends on it."""
CAPTION_AT = TEMPLATE.index("{}")
"""Characters before the caption."""
CROP = 103
"""Tokens before the caption; their rows are not kept."""
IMAGE_AT = 5
"""Where the picture's token stands among them."""
PATCHES = 576
"""Rows that the picture takes: 24 x 24 patches."""
TAIL = 4
"""Tokens of the assistant's header, cut out behind the caption."""
INTERLEAVE = {"token_replace": 4, "latent_concat": 2}
"""Of how many image rows one is kept, by the way the transformer is given its first frame."""


def interleaved(facts: Backbone, asked: int | None) -> int:
    """Of how many image rows one is kept: `asked`, or what the backbone's mode wants."""
    return asked or INTERLEAVE.get(str(facts.condition), 1)


def kept(ids: Sequence[int], header: int, tokens: int, every: int) -> list[int]:
    """Rows of the hidden state that are stored, in order: every `every`-th of the picture, then those of the text.

    The text's are the caption's and what follows the assistant's header, without padding. `ids` are the prompt's tokens,
    `header` the one that ends a header, `tokens` how many are no padding, all before the picture was spread over its patches.
    """
    headers = [place for place, token in enumerate(ids) if token == header]
    # A long caption pushes the assistant's header out: then the last token stands for it, as in the pipeline.
    end = headers[-1] + 1 if len(headers) > 2 else len(ids)
    spread = PATCHES - 1
    return [*range(IMAGE_AT, IMAGE_AT + PATCHES, every), *range(CROP + spread, end + spread - TAIL), *range(end + spread, tokens + spread)]


def check_template(tokenizer: Any, image_token: int, model_id: str) -> None:
    """Raises CallError when the tokenizer cuts the template otherwise than the crop expects: rows would be the wrong ones."""
    ids = tokenizer(TEMPLATE[:CAPTION_AT]).input_ids
    if len(ids) == CROP and ids[IMAGE_AT] == image_token and tokenizer.padding_side == "right":
        return
    at = ids.index(image_token) if image_token in ids else "nowhere"
    raise CallError(
        f"llava: the tokenizer of {model_id} cuts the template into {len(ids)} tokens, the picture at {at}, and pads {tokenizer.padding_side}; "
        f"wanted {CROP} tokens, the picture at {IMAGE_AT}, padding right. Use the tokenizer of hunyuanvideo-community/HunyuanVideo-I2V."
    )
