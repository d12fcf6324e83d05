"""Text embeddings of the backbone's T5, every padding row kept.

Exercised by `pytest tests/vapdata/encoders/test_t5.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from vapdata.encoders.prompts import encoder_weight, tokenizer_weight
from vapdata.encoders.text_tower import OpenTextTower, TextSettings
from vapdata.step import Product
from vapdata.weights import Weight


@dataclass(frozen=True, kw_only=True)
class T5(TextSettings):
    """T5 embeddings of captions.

    What: the last hidden state of T5 v1.1's encoder, padded to the backbone's row count, no attention mask.
    Reads: caption (a clip without one is encoded as '').
    Writes: product `<backbone>-t5-<rows>` in `texts`: bf16 (rows, D), 226 rows for CogVideoX, 32 for the tiny one; columns
        length (true tokens, end mark included) and text_truncated. Two rows without clip: the empty and the negative prompt.
    Default: negative_prompt ''. bf16 on a GPU, float32 on a CPU.
    Cost: 1.85 MB a clip at D = 4096; the XXL encoder takes 9.5 GB in bf16.
    Fails when: a value is not finite.
    Source: diffusers CogVideoXPipeline (226 tokens, no mask: padding rows are live in the transformer).
    """

    name: ClassVar[str] = "t5"

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        text = self.facts.text
        return (self.product(text.product, text.rows, {"padding": "kept"}),)

    def weights(self) -> Sequence[Weight]:
        """The encoder's and the tokenizer's folder."""
        return (encoder_weight(self.facts, self.model), tokenizer_weight(self.facts, self.model, "spiece.model|tokenizer.json"))

    def open(self, device: str | None = None) -> "OpenT5":
        """Loads encoder and tokenizer."""
        return OpenT5(self, "T5EncoderModel", self.facts.text.rows, device)


class OpenT5(OpenTextTower):
    """T5 at work."""

    def rows(self, tokens: Any, frames: Sequence[np.ndarray] | None) -> list[Float32[np.ndarray, "rows width"]]:
        """Every row, those of the padding included."""
        return list(self.model(tokens.input_ids.to(self.device))[0].float().cpu().numpy())
