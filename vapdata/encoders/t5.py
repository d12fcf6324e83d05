"""Text embeddings of the backbone's T5, every padding row kept.

Exercised by `pytest tests/vapdata/encoders/test_t5.py`.
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
from vapdata.encoders.prompts import encoder_weight, speakable, tokenizer_weight, unconditional
from vapdata.step import Cell, Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class T5:
    """T5 embeddings of captions.

    What: the last hidden state of T5 v1.1's encoder, padded to the backbone's row count, no attention mask.
    Reads: caption (a clip without one is encoded as '').
    Writes: product `<backbone>-t5-<rows>` in `texts`: bf16 (rows, D), 226 rows for CogVideoX, 32 for the tiny one; columns length (true tokens, end mark included) and
        text_truncated. Two rows without clip: the empty and the negative prompt.
    Default: negative_prompt ''. bf16 on a GPU, float32 on a CPU.
    Cost: 1.85 MB a clip at D = 4096; the XXL encoder takes 9.5 GB in bf16.
    Fails when: a value is not finite.
    Source: diffusers CogVideoXPipeline (226 tokens, no mask: padding rows are live in the transformer).
    """

    name: ClassVar[str] = "t5"
    reads: ClassVar[frozenset[str]] = frozenset({"caption"})

    backbone: str
    negative_prompt: str = ""
    model: str | None = None
    """Another hub id or a local folder (with text_encoder and tokenizer) instead of the backbone's own."""
    batch: int = 8
    """Texts at once on a GPU."""

    def __post_init__(self) -> None:
        backbone(self.backbone)

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
            "padding": "kept",
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
        return (encoder_weight(self.facts, self.model), tokenizer_weight(self.facts, self.model, "spiece.model|tokenizer.json"))

    def open(self, device: str | None = None) -> "OpenT5":
        """Loads encoder and tokenizer."""
        return OpenT5(self, device)


class OpenT5:
    """T5 at work."""

    def __init__(self, spec: T5, device: str | None) -> None:
        from transformers import AutoTokenizer, T5EncoderModel
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
        model = T5EncoderModel.from_pretrained(
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

    def embed(self, texts: Sequence[str]) -> list[Float32[np.ndarray, "rows width"]]:
        """Embeddings of `texts`, each padded or cut to the backbone's rows."""
        import torch

        found: list[np.ndarray] = []
        for group in devices.groups(len(texts), self._device, self._spec.batch):
            tokens = self._tokenizer(
                [speakable(text) for text in texts[group]],
                padding="max_length",
                max_length=self._rows,
                truncation=True,
                add_special_tokens=True,
                return_tensors="pt",
            ).input_ids
            with torch.inference_mode(), devices.out_of_memory("t5", "Type: --set t5.batch=1"):
                hidden = self._model(tokens.to(self._device))[0]
            found.extend(hidden.float().cpu().numpy())
        return found

    def _cell(self, text: str, rows: np.ndarray, clip_id: str | None, caption: Caption | None) -> Cell:
        tokens = len(self._tokenizer(speakable(text), truncation=False, verbose=False).input_ids)
        columns = {"length": min(tokens, self._rows), "text_truncated": tokens > self._rows}
        data = devices.finite(rows, self._product, clip_id)
        return Cell(
            product=self._product, clip_id=clip_id, data=data, shape=data.shape, caption=caption, columns=columns
        )
