"""HunyuanVideo's second text embedding: one vector of CLIP-L for the whole caption.

Exercised by `pytest tests/vapdata/encoders/test_clip_text.py`.
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

TOKENS = 77
"""What CLIP's text tower reads, both marks included."""
LONGEST = 8192
"""Characters of a caption that are tokenised: far more than 77 tokens."""


@dataclass(frozen=True, kw_only=True)
class ClipText(TextSettings):
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
    family: ClassVar[str | None] = "hunyuan"

    batch: int = 64
    """Texts at once on a GPU."""

    def products(self) -> tuple[Product, ...]:
        """The one product."""
        return (self.product(f"{self.facts.vae.product.removesuffix('-vae')}-clip-l-pooled", TOKENS, {}),)

    def weights(self) -> Sequence[Weight]:
        """The folders of the text tower and its tokenizer."""
        facts = self.facts
        repo, aliases = self.model or facts.repo, () if self.model else facts.aliases
        encoder = Weight(repo=repo, subfolder="text_encoder_2", stem="model", bytes=246_000_000, aliases=aliases)
        files = ("tokenizer_config.json", "vocab.json|tokenizer.json")
        return (encoder, Weight(repo=repo, subfolder="tokenizer_2", files=files, aliases=aliases))

    def open(self, device: str | None = None) -> "OpenClipText":
        """Loads tower and tokenizer."""
        return OpenClipText(self, "CLIPTextModel", TOKENS, device)


class OpenClipText(OpenTextTower):
    """ClipText at work."""

    def read(self, text: str) -> str:
        """`text` without special tokens, and not endlessly long."""
        return plain(text[:LONGEST], self.tokenizer.all_special_tokens)

    def rows(self, tokens: Any, frames: Sequence[np.ndarray] | None) -> list[Float32[np.ndarray, " width"]]:
        """The pooled vector of each text."""
        return list(self.model(tokens.input_ids.to(self.device)).pooler_output.float().cpu().numpy())
