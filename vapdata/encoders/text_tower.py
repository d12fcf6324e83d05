"""What the text encoders share: their settings, how a model is loaded, captions to cells, the prompts that belong to no clip.

A text encoder adds what it reads of a caption (`read`) and what it keeps of its model's answer (`rows`).
Exercised by `pytest tests/vapdata/encoders/test_t5.py`, and by those of `umt5`, `llava` and `clip_text`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import UInt8

from vapdata import device as devices
from vapdata import weights as stores
from vapdata.backbones import Backbone, backbone
from vapdata.clip import Caption, Sample
from vapdata.encoders.prompts import encoder_weight, of_family, speakable, tokenizer_weight, unconditional
from vapdata.step import Cell, Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class TextSettings:
    """Fields and checks that every text encoder has."""

    name: ClassVar[str]
    reads: ClassVar[frozenset[str]] = frozenset({"caption"})
    family: ClassVar[str | None] = None
    """The only family whose text goes through this model; None for any."""

    backbone: str
    negative_prompt: str = ""
    model: str | None = None
    """Another hub id or a local folder (with the same subfolders) instead of the backbone's own."""
    batch: int = 8
    """Texts at once on a GPU."""

    def __post_init__(self) -> None:
        if self.family is None:
            backbone(self.backbone)
        else:
            of_family(self.backbone, self.family, self.name)

    @property
    def facts(self) -> Backbone:
        """The backbone's numbers."""
        return backbone(self.backbone)

    def weights(self) -> Sequence[Weight]:
        """The encoder's and the tokenizer's folder."""
        return (encoder_weight(self.facts, self.model), tokenizer_weight(self.facts, self.model))

    def product(self, name: str, rows: int, more: Mapping[str, Any]) -> Product:
        """A product of this name: the settings that every text encoder has, and `more`."""
        encoder, tokenizer, *_ = self.weights()
        revision = stores.revision(encoder)
        shared = {
            "rows": rows,
            "negative_prompt": self.negative_prompt,
            "model_id": encoder.model_id,
            "revision": revision,
            "tokenizer_revision": stores.revision(tokenizer),
        }
        return Product(
            name=name,
            table="texts",
            model_id=encoder.model_id,
            revision=revision,
            dtype="bf16",
            settings={**shared, **more},
            reads_caption=True,
            without_caption="empty",
        )

    def products(self) -> tuple[Product, ...]:
        """The one product; each text encoder names its own."""
        raise NotImplementedError


class OpenTextTower:
    """A text encoder at work. `limit` is how many tokens of a text its model reads, special ones included."""

    def __init__(self, spec: TextSettings, model_class: str, limit: int, device: str | None) -> None:
        import transformers
        from transformers.utils import logging

        logging.disable_progress_bar()
        encoder, tokenizer, *_ = spec.weights()
        self.spec = spec
        self.limit = limit
        self.product = spec.products()[0].name
        self.device = devices.pick(device)
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(stores.find(tokenizer), local_files_only=True, trust_remote_code=False)
        model = getattr(transformers, model_class).from_pretrained(
            stores.find(encoder), dtype=devices.precision(self.device), use_safetensors=True, local_files_only=True
        )
        self.model = model.to(self.device).eval().requires_grad_(False)

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell for each sample; without caption, of the text ''."""
        texts = [sample.caption.text if sample.caption else "" for sample in samples]
        embedded = self.embed(texts, self.frames(samples))
        return [[self._cell(text, data, one.clip_id, one.caption)] for one, text, data in zip(samples, texts, embedded, strict=True)]

    def constants(self) -> list[Cell]:
        """The empty and the negative prompt: dropout and guidance need them."""
        captions = unconditional(self.spec.negative_prompt)
        embedded = self.embed([caption.text for caption in captions])
        return [self._cell(caption.text, data, None, caption) for caption, data in zip(captions, embedded, strict=True)]

    def embed(self, texts: Sequence[str], frames: Sequence[UInt8[np.ndarray, "h w 3"]] | None = None) -> list[np.ndarray]:
        """What is kept of each text, with its picture where the model looks at one. float32."""
        import torch

        found: list[np.ndarray] = []
        for group in devices.groups(len(texts), self.device, self.spec.batch):
            tokens = self.tokenizer(
                [self.read(text) for text in texts[group]],
                padding="max_length",
                max_length=self.limit,
                truncation=True,
                return_attention_mask=True,
                return_tensors="pt",
            )
            with torch.inference_mode(), devices.out_of_memory(self.spec.name, f"Type: --set {self.spec.name}.batch=1"):
                found.extend(self.rows(tokens, frames[group] if frames is not None else None))
        return found

    def read(self, text: str) -> str:
        """`text` as the tokenizer is given it."""
        return speakable(text)

    def frames(self, samples: Sequence[Sample]) -> Sequence[np.ndarray] | None:
        """The pictures that the model looks at; None when it looks at none."""
        return None

    def rows(self, tokens: Any, frames: Sequence[np.ndarray] | None) -> list[np.ndarray]:
        """What is kept of the model's answer to each of `tokens`, a batch as the tokenizer gives it. float32, on the CPU."""
        raise NotImplementedError

    def length(self, data: np.ndarray, tokens: int) -> int:
        """The true tokens of a text that has `tokens` of them: the stored column."""
        return min(tokens, self.limit)

    def _cell(self, text: str, data: np.ndarray, clip_id: str | None, caption: Caption | None) -> Cell:
        tokens = len(self.tokenizer(self.read(text), truncation=False, verbose=False).input_ids)
        columns = {"length": self.length(data, tokens), "text_truncated": tokens > self.limit}
        devices.finite(data, self.product, clip_id)
        return Cell(product=self.product, clip_id=clip_id, data=data, shape=data.shape, caption=caption, columns=columns)
