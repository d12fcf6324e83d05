"""Word embeddings of a caption as BLIP-2's Q-Former is given them: what frame-wise text conditioning reads.

Exercised by `pytest tests/vapdata/encoders/test_blip2_words.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Float32

from vapdata.encoders.prompts import plain
from vapdata.encoders.text_tower import OpenTextTower, TextSettings
from vapdata.step import Product
from vapdata.weights import Weight

BLIP2_REPO = "Salesforce/blip2-itm-vit-g"
TOKENS = 77
"""Rows at most, both marks included. LAVIS cuts a caption at 32 tokens, CLIP at 77; action captions are far shorter than either."""
LONGEST = 8192
"""Characters of a caption that are tokenised."""


def words_product(tiny: bool) -> str:
    """Name of the product."""
    return f"{'tiny-' if tiny else ''}blip2-g14-words-{TOKENS}"


@dataclass(frozen=True, kw_only=True)
class Blip2Words(TextSettings):
    """Frozen word embeddings of the caption, ragged.

    What: BERT's token and position embeddings after their norm, out of BLIP-2's Q-Former, one row for each token. Nothing has
        attended to anything: the same token at the same place is the same row.
    Reads: caption (a clip without one is encoded as '').
    Writes: product `blip2-g14-words-77` in `texts`: bf16 (length, 768), 2 <= length <= 77, [CLS] and [SEP] included; columns
        length and text_truncated. Two rows without clip: the empty and the negative prompt.
    Default: negative_prompt ''.
    Cost: 1.5 KB a token; a table look-up.
    Fails when: a value is not finite.
    Source: transformers Blip2ForImageTextRetrieval (`embeddings`, then `qformer.layernorm`), LAVIS BertEmbeddings; which table
        Frame-wise Conditioning Adaptation looks words up in is not told, methods.md 2.7.2. Special tokens inside a caption become spaces.
    """

    name: ClassVar[str] = "blip2_words"

    batch: int = 256
    """Texts at once on a GPU."""

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        return (self.product(words_product(self.facts.tiny), TOKENS, {"padding": "dropped"}),)

    def weights(self) -> Sequence[Weight]:
        """BLIP-2's folder, twice: as the model's and as the tokenizer's."""
        repo = self.model or ("tiny-blip2" if self.facts.tiny else BLIP2_REPO)
        encoder = Weight(repo=repo, files=("config.json",), stem="model", bytes=4_700_000_000)
        return (encoder, Weight(repo=repo, files=("tokenizer_config.json", "tokenizer.json|vocab.txt")))

    def open(self, device: str | None = None) -> "OpenBlip2Words":
        """Loads the tables and the tokenizer."""
        return OpenBlip2Words(self, "Blip2ForImageTextRetrieval", TOKENS, device)


class OpenBlip2Words(OpenTextTower):
    """Blip2Words at work."""

    def __init__(self, spec: TextSettings, model_class: str, limit: int, device: str | None) -> None:
        super().__init__(spec, model_class, limit, device)
        # Both towers of BLIP-2 are let go: only the tables are looked at.
        self._table, self._norm = self.model.embeddings, self.model.qformer.layernorm
        self.model = None

    def read(self, text: str) -> str:
        """`text` without special tokens, and not endlessly long."""
        return plain(text[:LONGEST], self.tokenizer.all_special_tokens)

    def rows(self, tokens: Any, frames: Sequence[np.ndarray] | None) -> list[Float32[np.ndarray, "_ width"]]:
        """As many rows as each text has tokens."""
        embedded = self._table(input_ids=tokens.input_ids)
        rows = self._norm(embedded.to(self._norm.weight.dtype)).float().cpu().numpy()
        return [each[:length].copy() for each, length in zip(rows, tokens.attention_mask.sum(dim=1).tolist(), strict=True)]
