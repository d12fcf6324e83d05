"""HunyuanVideo-I2V's prompt: what LLaVA makes of the first frame and the caption together.

Exercised by `pytest tests/vapdata/encoders/test_llava.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from jaxtyping import Float32

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.clip import Sample, Sampling
from vapdata.encoders.llava_prompt import CROP, IMAGE_AT, PATCHES, TEMPLATE, check_template, interleaved, kept
from vapdata.encoders.prompts import encoder_weight, plain, tokenizer_weight
from vapdata.encoders.text_tower import OpenTextTower, TextSettings
from vapdata.step import Product
from vapdata.weights import Weight

SKIPPED = 2
"""Layers above the one whose output is taken."""


@dataclass(frozen=True, kw_only=True)
class Llava(TextSettings):
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
    family: ClassVar[str | None] = "hunyuan"

    sampling: Sampling
    interleave: Literal[1, 2, 3, 4, 5] | None = None
    """Of how many image rows one is kept; None is what the backbone's mode asks for."""
    batch: int = 4
    """Prompts at once on a GPU."""

    @property
    def variant(self) -> str:
        """How many image rows are kept, where that was asked for: a recipe may want several."""
        return "" if self.interleave is None else f"i{self.interleave}"

    @property
    def every(self) -> int:
        """Of how many image rows one is kept."""
        return interleaved(self.facts, self.interleave)

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        height, width = self.sampling.height, self.sampling.width
        settings = {
            "padding": "dropped",
            "template": TEMPLATE,
            "interleave": self.every,
            "image_rows": len(range(0, PATCHES, self.every)),
            "height": height,
            "width": width,
            "resize": self.sampling.pictures,
            "processor_revision": stores.revision(self.weights()[2]),
        }
        return (self.product(f"{self.facts.text.product}-{height}x{width}-i{self.every}", self.facts.text.rows, settings),)

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


class OpenLlava(OpenTextTower):
    """Llava at work."""

    def __init__(self, spec: Llava, device: str | None) -> None:
        from transformers import CLIPImageProcessor

        super().__init__(spec, "LlavaForConditionalGeneration", spec.facts.text.rows + CROP, device)
        encoder, _, processor = spec.weights()
        self._processor = CLIPImageProcessor.from_pretrained(stores.find(processor), local_files_only=True)
        self._size, self._every = (spec.sampling.height, spec.sampling.width, 3), spec.every
        self._marks = tuple(self.tokenizer.get_added_vocab())
        self._header = self.tokenizer.convert_tokens_to_ids("<|end_header_id|>")
        check_template(self.tokenizer, self.model.config.image_token_index, encoder.model_id)

    def read(self, text: str) -> str:
        """The whole conversation, `text` in it without special tokens."""
        return TEMPLATE.format(plain(text, self._marks))

    def frames(self, samples: Sequence[Sample]) -> list[np.ndarray]:
        """The samples' first frames."""
        return [devices.grid(sample.first, sample.clip_id, self._size) for sample in samples]

    def rows(self, tokens: Any, frames: Sequence[np.ndarray] | None) -> list[Float32[np.ndarray, "_ width"]]:
        """Image rows, then the true rows of the text. No frames are black ones, as the pipeline's guidance has them."""
        from PIL import Image

        pictures = [np.zeros(self._size, np.uint8)] * len(tokens.input_ids) if frames is None else frames
        pixels = self._processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt").pixel_values.to(self.device)
        hidden = self._hidden(tokens.input_ids, pixels).float().cpu()
        counts = tokens.attention_mask.sum(dim=1).tolist()
        told = zip(hidden, tokens.input_ids.tolist(), counts, strict=True)
        return [states[kept(ids, self._header, count, self._every)].numpy() for states, ids, count in told]

    def length(self, data: np.ndarray, tokens: int) -> int:
        """All rows: those of the picture count."""
        return len(data)

    def _hidden(self, ids: Any, pixels: Any) -> Any:
        """The layer's output, the picture's one token spread over its patches."""
        import torch

        image, pad = self.model.config.image_token_index, self.model.config.pad_token_id
        spread = torch.full((len(ids), PATCHES), image, dtype=ids.dtype)
        ids = torch.cat([ids[:, :IMAGE_AT], spread, ids[:, IMAGE_AT + 1 :]], dim=1)
        mask = (ids != pad).long()
        positions = (mask.cumsum(-1) - 1).masked_fill(mask == 0, 1)
        output = self.model(
            input_ids=ids.to(self.device),
            attention_mask=mask.to(self.device),
            position_ids=positions.to(self.device),
            pixel_values=pixels,
            output_hidden_states=True,
            logits_to_keep=1,  # of the vocabulary's logits, a gigabyte of which nobody reads
        )
        return output.hidden_states[-(SKIPPED + 1)]
