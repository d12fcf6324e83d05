"""HunyuanVideo-I2V's prompt: what LLaVA makes of the first frame and the caption together.

Exercised by `pytest tests/vapdata/encoders/test_llava.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from vapdata import weights as stores
from vapdata.backbones import Backbone, backbone
from vapdata.clip import Caption, Sample, Sampling
from vapdata.encoders import device as devices
from vapdata.encoders.prompts import encoder_weight, of_family, plain, tokenizer_weight, unconditional
from vapdata.errors import CallError
from vapdata.step import Cell, Product
from vapdata.weights import Weight

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
CROP = 103
"""Tokens before the caption; their rows are not kept."""
IMAGE_AT = 5
"""Where the picture's token stands among them."""
PATCHES = 576
"""Rows that the picture takes: 24 x 24 patches."""
TAIL = 4
"""Tokens of the assistant's header, cut out behind the caption."""
SKIPPED = 2
"""Layers above the one whose output is taken."""
INTERLEAVE = {"token_replace": 4, "latent_concat": 2}
"""Of how many image rows one is kept, by the way the transformer is given its first frame."""


@dataclass(frozen=True, kw_only=True)
class Llava:
    """LLaVA's hidden states for a first frame and a caption, ragged.

    What: the third hidden state from the top under the pipeline's template: every n-th of 576 image rows, then the caption's
        rows. Padding is dropped: the transformer masks it.
    Reads: first, caption (a clip without one is encoded as '').
    Writes: product `<backbone>-llava-256-<H>x<W>-i<n>` in `texts`: bf16 (length, D), 576 / n image rows first, at most 252
        rows of text; columns length (image rows included) and text_truncated. Two rows without clip: the empty and
        the negative prompt, over a black picture.
    Default: n = 4 for token_replace, 2 for latent_concat; negative_prompt ''. bf16 on a GPU, float32 on a CPU.
    Cost: 2.2 MB for 120 tokens at n = 4 and D = 4096; the model takes 16.7 GB in bf16.
    Fails when: a value is not finite.
    Source: diffusers HunyuanVideoImageToVideoPipeline._get_llama_prompt_embeds, one prompt at a time: it cuts a batch wrongly
        when one prompt in it is too long. Special tokens inside a caption become spaces.
    """

    name: ClassVar[str] = "llava"
    reads: ClassVar[frozenset[str]] = frozenset({"first", "caption"})

    backbone: str
    sampling: Sampling
    negative_prompt: str = ""
    interleave: Literal[1, 2, 3, 4, 5] | None = None
    """Of how many image rows one is kept; None is what the backbone's mode asks for."""
    model: str | None = None
    """Another hub id or a local folder (with text_encoder, tokenizer and image_processor) instead of the backbone's own."""
    batch: int = 4
    """Prompts at once on a GPU."""

    def __post_init__(self) -> None:
        of_family(self.backbone, "hunyuan", self.name)

    @property
    def facts(self) -> Backbone:
        """The backbone's numbers."""
        return backbone(self.backbone)

    @property
    def every(self) -> int:
        """Of how many image rows one is kept."""
        return self.interleave or INTERLEAVE.get(str(self.facts.condition), 1)

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        encoder, tokenizer, processor = self.weights()
        height, width = self.sampling.height, self.sampling.width
        revision = stores.revision(encoder)
        settings = {
            "rows": self.facts.text.rows,
            "padding": "dropped",
            "template": TEMPLATE,
            "interleave": self.every,
            "image_rows": len(range(0, PATCHES, self.every)),
            "negative_prompt": self.negative_prompt,
            "height": height,
            "width": width,
            "resize": self.sampling.resize,
            "model_id": encoder.model_id,
            "revision": revision,
            "tokenizer_revision": stores.revision(tokenizer),
            "processor_revision": stores.revision(processor),
        }
        return (
            Product(
                name=f"{self.facts.text.product}-{height}x{width}-i{self.every}",
                table="texts",
                model_id=encoder.model_id,
                revision=revision,
                dtype="bf16",
                settings=settings,
                reads_caption=True,
                without_caption="empty",
            ),
        )

    def weights(self) -> Sequence[Weight]:
        """The folders of the model, its tokenizer and its picture processor."""
        facts = self.facts
        processor = Weight(
            repo=self.model or facts.repo,
            subfolder="image_processor",
            files=("preprocessor_config.json",),
            aliases=() if self.model else facts.aliases,
        )
        return (encoder_weight(facts, self.model), tokenizer_weight(facts, self.model), processor)

    def open(self, device: str | None = None) -> "OpenLlava":
        """Loads the model."""
        return OpenLlava(self, device)


class OpenLlava:
    """Llava at work."""

    def __init__(self, spec: Llava, device: str | None) -> None:
        from transformers import AutoTokenizer, CLIPImageProcessor, LlavaForConditionalGeneration
        from transformers.utils import logging

        logging.disable_progress_bar()
        encoder, tokenizer, processor = spec.weights()
        self._spec = spec
        self._rows = spec.facts.text.rows
        self._product = spec.products()[0].name
        self._device = devices.pick(device)
        self._tokenizer = AutoTokenizer.from_pretrained(stores.find(tokenizer), local_files_only=True, trust_remote_code=False)
        self._processor = CLIPImageProcessor.from_pretrained(stores.find(processor), local_files_only=True)
        model = LlavaForConditionalGeneration.from_pretrained(
            stores.find(encoder), dtype=devices.precision(self._device), use_safetensors=True, local_files_only=True
        )
        self._model = model.to(self._device).eval().requires_grad_(False)
        self._marks = tuple(self._tokenizer.get_added_vocab())
        self._header = self._tokenizer.convert_tokens_to_ids("<|end_header_id|>")
        check_template(self._tokenizer, self._model.config.image_token_index, encoder.model_id)

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell for each sample; without caption, of the text ''."""
        texts = [sample.caption.text if sample.caption else "" for sample in samples]
        embedded = self.embed([self._frame(sample) for sample in samples], texts)
        return [
            [self._cell(text, rows, sample.clip_id, sample.caption)]
            for sample, text, rows in zip(samples, texts, embedded, strict=True)
        ]

    def constants(self) -> list[Cell]:
        """The empty and the negative prompt over a black picture, as the pipeline's guidance has them."""
        captions = unconditional(self._spec.negative_prompt)
        black = np.zeros((self._spec.sampling.height, self._spec.sampling.width, 3), np.uint8)
        embedded = self.embed([black] * len(captions), [caption.text for caption in captions])
        return [self._cell(caption.text, rows, None, caption) for caption, rows in zip(captions, embedded, strict=True)]

    def embed(
        self, frames: Sequence[UInt8[np.ndarray, "h w 3"]], texts: Sequence[str]
    ) -> list[Float32[np.ndarray, "_ width"]]:
        """Rows of each picture with its text: image rows, then the true rows of the text."""
        import torch
        from PIL import Image

        found: list[np.ndarray] = []
        for group in devices.groups(len(texts), self._device, self._spec.batch):
            pictures = [Image.fromarray(frame) for frame in frames[group]]
            pixels = self._processor(pictures, return_tensors="pt").pixel_values.to(self._device)
            tokens = self._tokenizer(
                [TEMPLATE.format(plain(text, self._marks)) for text in texts[group]],
                max_length=self._rows + CROP,
                padding="max_length",
                truncation=True,
                return_tensors="pt",
            )
            with torch.inference_mode(), devices.out_of_memory("llava", "Type: --set llava.batch=1"):
                hidden = self._hidden(tokens.input_ids, pixels).float().cpu()
            kept = zip(hidden, tokens.input_ids, tokens.attention_mask, strict=True)
            found.extend(crop(rows, self._ends(ids), int(mask.sum()), self._spec.every).numpy() for rows, ids, mask in kept)
        return found

    def _hidden(self, ids: Any, pixels: Any) -> Any:
        """The layer's output, the picture's one token spread over its patches."""
        import torch

        image, pad = self._model.config.image_token_index, self._model.config.pad_token_id
        spread = torch.full((len(ids), PATCHES), image, dtype=ids.dtype)
        ids = torch.cat([ids[:, :IMAGE_AT], spread, ids[:, IMAGE_AT + 1 :]], dim=1)
        mask = (ids != pad).long()
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
        output = self._model(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            position_ids=positions.to(self._device),
            pixel_values=pixels,
            output_hidden_states=True,
            logits_to_keep=1,  # of the vocabulary's logits, a gigabyte of which nobody reads
        )
        return output.hidden_states[-(SKIPPED + 1)]

    def _ends(self, ids: Any) -> int:
        """Index behind the assistant's header, or behind the last token when a long caption pushed it out."""
        headers = (ids == self._header).nonzero().flatten().tolist()
        return headers[-1] + 1 if len(headers) > 2 else len(ids)

    def _frame(self, sample: Sample) -> np.ndarray:
        return devices.grid(sample.first, sample.clip_id, (self._spec.sampling.height, self._spec.sampling.width, 3))

    def _cell(self, text: str, rows: np.ndarray, clip_id: str | None, caption: Caption | None) -> Cell:
        prompt = TEMPLATE.format(plain(text, self._marks))
        tokens = len(self._tokenizer(prompt, truncation=False, verbose=False).input_ids)
        columns = {"length": len(rows), "text_truncated": tokens > self._rows + CROP}
        data = devices.finite(rows, self._product, clip_id)
        return Cell(product=self._product, clip_id=clip_id, data=data, shape=data.shape, caption=caption, columns=columns)


def crop(hidden: Float32[Any, "tokens width"], end: int, tokens: int, every: int) -> Float32[Any, "_ width"]:
    """Every `every`-th image row, then the caption's rows and what follows the assistant's header, without padding.

    `end` is the index behind that header and `tokens` the number of true tokens, both before the picture was spread.
    """
    import torch

    spread = PATCHES - 1
    image = hidden[IMAGE_AT : IMAGE_AT + PATCHES : every]
    return torch.cat([image, hidden[CROP + spread : end + spread - TAIL], hidden[end + spread : tokens + spread]])


def check_template(tokenizer: Any, image_token: int, model_id: str) -> None:
    """Raises CallError when the tokenizer cuts the template otherwise than the crop expects: rows would be the wrong ones."""
    ids = tokenizer(TEMPLATE.split("{}")[0]).input_ids
    if len(ids) == CROP and ids[IMAGE_AT] == image_token and tokenizer.padding_side == "right":
        return
    at = ids.index(image_token) if image_token in ids else "nowhere"
    raise CallError(
        f"llava: the tokenizer of {model_id} cuts the template into {len(ids)} tokens, the picture at {at}, and pads {tokenizer.padding_side}; "
        f"wanted {CROP} tokens, the picture at {IMAGE_AT}, padding right. Use the tokenizer of hunyuanvideo-community/HunyuanVideo-I2V."
    )
