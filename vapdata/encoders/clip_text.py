"""HunyuanVideo's second text embedding: one vector of CLIP-L for the whole caption.

Exercised by `pytest tests/vapdata/encoders/test_clip_text.py`.
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
from vapdata.encoders.prompts import of_family, plain, unconditional
from vapdata.step import Cell, Product
from vapdata.weights import Weight

TOKENS = 77
"""What CLIP's text tower reads, both marks included."""
LONGEST = 8192
"""Characters of a caption that are tokenised: far more than 77 tokens."""


@dataclass(frozen=True, kw_only=True)
class ClipText:
    """CLIP-L's pooled embedding of the caption.

    What: the text tower's final state at the end mark, not projected and not normalised.
    Reads: caption (a clip without one is encoded as '').
    Writes: product `<backbone>-clip-l-pooled` in `texts`: bf16 (768,); columns length (tokens, both marks included) and
        text_truncated (more than 77). Two rows without clip: the empty and the negative prompt.
    Default: negative_prompt ''. bf16 on a GPU, float32 on a CPU.
    Cost: 1.5 KB a clip.
    Fails when: a value is not finite.
    Source: diffusers HunyuanVideoImageToVideoPipeline._get_clip_prompt_embeds. Special tokens inside a caption become spaces.
    """

    name: ClassVar[str] = "clip_text"
    reads: ClassVar[frozenset[str]] = frozenset({"caption"})

    backbone: str
    negative_prompt: str = ""
    model: str | None = None
    """Another hub id or a local folder (with text_encoder_2 and tokenizer_2) instead of the backbone's own."""
    batch: int = 64
    """Texts at once on a GPU."""

    def __post_init__(self) -> None:
        of_family(self.backbone, "hunyuan", self.name)

    @property
    def facts(self) -> Backbone:
        """The backbone's numbers."""
        return backbone(self.backbone)

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        encoder, tokenizer = self.weights()
        revision = stores.revision(encoder)
        settings = {
            "rows": TOKENS,
            "negative_prompt": self.negative_prompt,
            "model_id": encoder.model_id,
            "revision": revision,
            "tokenizer_revision": stores.revision(tokenizer),
        }
        return (
            Product(
                name=f"{self.facts.vae.product.removesuffix('-vae')}-clip-l-pooled",
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
        """The folders of the text tower and its tokenizer."""
        facts = self.facts
        repo, aliases = self.model or facts.repo, () if self.model else facts.aliases
        encoder = Weight(repo=repo, subfolder="text_encoder_2", stem="model", bytes=246_000_000, aliases=aliases)
        files = ("tokenizer_config.json", "vocab.json|tokenizer.json")
        return (encoder, Weight(repo=repo, subfolder="tokenizer_2", files=files, aliases=aliases))

    def open(self, device: str | None = None) -> "OpenClipText":
        """Loads tower and tokenizer."""
        return OpenClipText(self, device)


class OpenClipText:
    """ClipText at work."""

    def __init__(self, spec: ClipText, device: str | None) -> None:
        from transformers import AutoTokenizer, CLIPTextModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        encoder, tokenizer = spec.weights()
        self._spec = spec
        self._product = spec.products()[0].name
        self._device = devices.pick(device)
        self._tokenizer = AutoTokenizer.from_pretrained(stores.find(tokenizer), local_files_only=True, trust_remote_code=False)
        model = CLIPTextModel.from_pretrained(
            stores.find(encoder), dtype=devices.precision(self._device), use_safetensors=True, local_files_only=True
        )
        self._model = model.to(self._device).eval().requires_grad_(False)
        self._marks = tuple(self._tokenizer.all_special_tokens)

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell for each sample; without caption, of the text ''."""
        texts = [sample.caption.text if sample.caption else "" for sample in samples]
        embedded = self.embed(texts)
        return [
            [self._cell(text, vector, sample.clip_id, sample.caption)]
            for sample, text, vector in zip(samples, texts, embedded, strict=True)
        ]

    def constants(self) -> list[Cell]:
        """The empty and the negative prompt: dropout and guidance need them."""
        captions = unconditional(self._spec.negative_prompt)
        embedded = self.embed([caption.text for caption in captions])
        return [self._cell(caption.text, vector, None, caption) for caption, vector in zip(captions, embedded, strict=True)]

    def embed(self, texts: Sequence[str]) -> list[Float32[np.ndarray, " width"]]:
        """The pooled vector of each text."""
        import torch

        found: list[np.ndarray] = []
        for group in devices.groups(len(texts), self._device, self._spec.batch):
            tokens = self._tokenizer(
                [self._plain(text) for text in texts[group]],
                padding="max_length",
                max_length=TOKENS,
                truncation=True,
                return_tensors="pt",
            ).input_ids
            with torch.inference_mode(), devices.out_of_memory("clip_text", "Type: --set clip_text.batch=1"):
                pooled = self._model(tokens.to(self._device)).pooler_output
            found.extend(pooled.float().cpu().numpy())
        return found

    def _plain(self, text: str) -> str:
        return plain(text[:LONGEST], self._marks)

    def _cell(self, text: str, vector: np.ndarray, clip_id: str | None, caption: Caption | None) -> Cell:
        tokens = len(self._tokenizer(self._plain(text), truncation=False, verbose=False).input_ids)
        columns = {"length": min(tokens, TOKENS), "text_truncated": tokens > TOKENS}
        data = devices.finite(vector, self._product, clip_id)
        return Cell(product=self._product, clip_id=clip_id, data=data, shape=data.shape, caption=caption, columns=columns)
