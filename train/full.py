"""Full fine-tuning: the backbone itself learns (first frame, caption) -> clip.

The loop's simplest method. It is Video-As-Prompt's "single branch, full" without a reference, and it makes small
backbones that mean something. `python -m train.full --catalog C --out RUN`; exercised by `pytest tests/train/test_full.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from train.batch import Batch, Reads, Side
from train.method import Backbone, WrapBlock, run_block
from vapdata import backbones
from vapdata.errors import CallError


@dataclass(frozen=True, kw_only=True)
class Full:
    """Trains every weight of the transformer."""

    name: ClassVar[str] = "full"
    trains_backbone: ClassVar[bool] = True
    splits_tokens: ClassVar[bool] = True
    caption_drop: float = 0.1
    """Share of samples that see the empty prompt, so that guidance has an unconditional side."""

    def __post_init__(self) -> None:
        if not 0 <= self.caption_drop <= 1:
            raise CallError(f"full: caption_drop is a share, 0 to 1; got {self.caption_drop:g}. Type --set full.caption_drop=0.1")

    def reads(self, facts: backbones.Backbone) -> Reads:
        """The caption's embedding; the backbone adds the first frame where it takes one."""
        return Reads(text=True)

    def attach(self, backbone: Backbone, wrap: WrapBlock) -> nn.Module:
        """The transformer, in float32 and learning."""
        return FullModule(backbone, wrap)

    def release_names(self, backbone: Backbone) -> Mapping[str, str]:
        """None: what is exported is the backbone in diffusers' own format."""
        return {}


class FullModule(nn.Module):
    """The backbone's transformer as the module that is trained."""

    def __init__(self, backbone: Backbone, wrap: WrapBlock) -> None:
        super().__init__()
        self._backbone = (backbone,)
        self.transformer = backbone.transformer.float().requires_grad_(True).train()
        self._block = wrap(lambda block, stream: run_block(backbone, block, stream))

    def forward(self, batch: Batch) -> Float[Tensor, " B"]:
        """The loss per sample."""
        objective = self._backbone[0].objective
        noisy = objective.noisy(batch.target.video, batch.noise, batch.timesteps)
        prediction = self.predict(noisy, batch.timesteps, batch.target, ())
        return objective.losses(prediction, batch.target.video, batch.noise, batch.timesteps)

    def predict(self, noisy: Float[Tensor, "B C T H W"], timesteps: Float[Tensor, " B"], target: Side, references: tuple[Side, ...]) -> Float[Tensor, "B C T H W"]:
        """The prediction; references are not looked at."""
        backbone = self._backbone[0]
        stream = backbone.embed(noisy, timesteps, target)
        for block in backbone.blocks:
            stream = self._block(block, stream)
        return backbone.head(stream)


if __name__ == "__main__":
    from train.launch import main

    main("full")
