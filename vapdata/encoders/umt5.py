"""Text embeddings of Wan's UMT5: true rows only, the padding is zeros and is put back by whoever reads them.

Exercised by `pytest tests/vapdata/encoders/test_umt5.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float32

from vapdata import weights as stores
from vapdata.backbones import Backbone, backbone
from vapdata.clip import Caption, Sample
from vapdata.encoders import device as devices
from vapdata.encoders.prompts import clean, encoder_weight, of_family, tokenizer_weight, unconditional
from vapdata.step import Cell, Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class Umt5:
    """UMT5 embeddings of captions, ragged.

    What: the last hidden state of UMT5's encoder under its attention mask, rows of true tokens alone. With zeros below, up to
        512 rows, it is what WanPipeline feeds its transformer.
    Reads: caption (a clip without one is encoded as '').
    Writes: product `<backbone>-umt5-512` in `texts`: bf16 (length, D), 1 <= length <= 512; columns length (end mark
        included) and text_truncated. Two rows without clip: the empty and the negative prompt.
    Default: negative_prompt ''. bf16 on a GPU, float32 on a CPU.
    Cost: 1.0 MB for 120 tokens at D = 4096, where 512 rows would take 4.2; the XXL encoder takes 11.4 GB in bf16.
    Fails when: a value is not finite.
    Source: diffusers WanPipeline._get_t5_prompt_embeds, its clean-up of the text included.
    """

    name: ClassVar[str] = "umt5"
    reads: ClassVar[frozenset[str]] = frozenset({"caption"})

    backbone: str
    negative_prompt: str = ""
    model: str | None = None
    """Another hub id or a local folder (with text_encoder and tokenizer) instead of the backbone's own."""
    batch: int = 8
    """Texts at once on a GPU."""

    def __post_init__(self) -> None:
        of_family(self.backbone, "wan", self.name)

    @property
    def facts(self) -> Backbone:
        """The backbone's numbers."""
        return backbone(self.backbone)

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        encoder, tokenizer = self.weights()
        text = self.facts.text
        revision = stores.revision(encoder)
        settings = {
            "rows": text.rows,
            "padding": "dropped",
            "negative_prompt": self.negative_prompt,
            "model_id": encoder.model_id,
            "revision": revision,
            "tokenizer_revision": stores.revision(tokenizer),
        }
        return (
            Product(
                name=text.product,
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
        """The encoder's and the tokenizer's folder."""
        return (encoder_weight(self.facts, self.model), tokenizer_weight(self.facts, self.model))

    def open(self, device: str | None = None) -> "OpenUmt5":
        """Loads encoder and tokenizer."""
        return OpenUmt5(self, device)


class OpenUmt5:
    """Umt5 at work."""

    def __init__(self, spec: Umt5, device: str | None) -> None:
        from transformers import AutoTokenizer, UMT5EncoderModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        encoder, tokenizer = spec.weights()
        self._spec = spec
        self._rows = spec.facts.text.rows
        self._product = spec.products()[0].name
        self._device = devices.pick(device)
        self._tokenizer = AutoTokenizer.from_pretrained(
            stores.find(tokenizer), local_files_only=True, trust_remote_code=False
        )
        model = UMT5EncoderModel.from_pretrained(
            stores.find(encoder), dtype=devices.precision(self._device), use_safetensors=True, local_files_only=True
        )
        self._model = model.to(self._device).eval().requires_grad_(False)

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell for each sample; without caption, of the text ''."""
        texts = [sample.caption.text if sample.caption else "" for sample in samples]
        embedded = self.embed(texts)
        return [
            [self._cell(text, rows, sample.clip_id, sample.caption)]
            for sample, text, rows in zip(samples, texts, embedded, strict=True)
        ]

    def constants(self) -> list[Cell]:
        """The empty and the negative prompt: dropout and guidance need them."""
        captions = unconditional(self._spec.negative_prompt)
        embedded = self.embed([caption.text for caption in captions])
        return [
            self._cell(caption.text, rows, None, caption) for caption, rows in zip(captions, embedded, strict=True)
        ]

    def embed(self, texts: Sequence[str]) -> list[Float32[np.ndarray, "_ width"]]:
        """Embeddings of `texts`: as many rows as each has tokens, at most the backbone's."""
        import torch

        found: list[np.ndarray] = []
        for group in devices.groups(len(texts), self._device, self._spec.batch):
            tokens = self._tokenizer(
                [clean(text) for text in texts[group]],
                padding="max_length",
                max_length=self._rows,
                truncation=True,
                add_special_tokens=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
            with torch.inference_mode(), devices.out_of_memory("umt5", "Type: --set umt5.batch=1"):
                hidden = self._model(tokens.input_ids.to(self._device), tokens.attention_mask.to(self._device))[0]
            lengths = tokens.attention_mask.sum(dim=1).tolist()
            # Copies: a view would keep all 512 rows alive until the cell is written.
            found.extend(rows[:length].copy() for rows, length in zip(hidden.float().cpu().numpy(), lengths, strict=True))
        return found

    def _cell(self, text: str, rows: np.ndarray, clip_id: str | None, caption: Caption | None) -> Cell:
        tokens = len(self._tokenizer(clean(text), truncation=False, verbose=False).input_ids)
        columns = {"length": len(rows), "text_truncated": tokens > self._rows}
        data = devices.finite(rows, self._product, clip_id)
        return Cell(
            product=self._product, clip_id=clip_id, data=data, shape=data.shape, caption=caption, columns=columns
        )
