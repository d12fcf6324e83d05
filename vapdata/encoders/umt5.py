"""Text embeddings of Wan's UMT5: true rows only, the padding is zeros and is put back by whoever reads them.

Exercised by `pytest tests/vapdata/encoders/test_umt5.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from vapdata.encoders.prompts import clean
from vapdata.encoders.text_tower import OpenTextTower, TextSettings
from vapdata.step import Product


@dataclass(frozen=True, kw_only=True)
class Umt5(TextSettings):
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
    family: ClassVar[str | None] = "wan"

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        text = self.facts.text
        return (self.product(text.product, text.rows, {"padding": "dropped"}),)

    def open(self, device: str | None = None) -> "OpenUmt5":
        """Loads encoder and tokenizer."""
        return OpenUmt5(self, "UMT5EncoderModel", self.facts.text.rows, device)


class OpenUmt5(OpenTextTower):
    """Umt5 at work."""

    def read(self, text: str) -> str:
        """`text` as Wan cleans a prompt."""
        return clean(text)

    def rows(self, tokens: Any, frames: Sequence[np.ndarray] | None) -> list[Float32[np.ndarray, "_ width"]]:
        """As many rows as each text has tokens."""
        hidden = self.model(tokens.input_ids.to(self.device), tokens.attention_mask.to(self.device))[0]
        lengths = tokens.attention_mask.sum(dim=1).tolist()
        # Copies: a view would keep all 512 rows alive until the cell is written.
        return [rows[:length].copy() for rows, length in zip(hidden.float().cpu().numpy(), lengths, strict=True)]
