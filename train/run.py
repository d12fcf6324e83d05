"""What a training run is: a method on a backbone with everything that decides its numbers. Named ones stand in recipes.py.

Exercised by `pytest tests/train/test_run.py`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from train.blocks import Blocks
from train.checkpoint import Checkpoints
from train.draws import Draws
from train.evaluate import Evaluation
from train.method import Method
from train.optimizer import Optimizer
from train.parallel import Parallel
from train.record import Logging
from train.trained_run import method_from
from vapdata.errors import CallError
from vapdata.settings import parse, typed


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Videos made while training, on a fixed set of validation samples."""

    every: int = 0
    """Steps between them; 0 for none."""
    count: int = 4
    steps: int = 50
    """Denoising steps."""
    guidance: float = 6.0

    def __post_init__(self) -> None:
        if self.every < 0 or self.count < 1 or self.steps < 1:
            raise CallError(f"samples: got {self}; every is 0 or more, count and steps 1 or more. Type e.g. --set samples.every=500")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One complete training run."""

    name: str
    """Name of the recipe that made it."""
    method: Method
    backbone: str
    """A name of vapdata/backbones.py."""
    steps: int
    """Optimiser steps in all."""
    global_batch: int
    """Samples per optimiser step, over all processes and micro-steps."""
    micro_batch: int = 1
    """Samples per process and forward pass, at most."""
    seed: int = 0
    where: str = "true"
    """Which clips are trained on: SQL over `clips_wide`."""
    product: str | None = None
    """The latents to train on; None when the catalog has one grid of the backbone's."""
    caption: str | None = None
    """Whose text is read, as captioner/role, e.g. source/source; None when the catalog has embeddings of one."""
    compute: Literal["auto", "bf16", "f32"] = "auto"
    """Arithmetic of the forward and backward pass; auto: bf16 on a GPU, f32 on a CPU. What is trained is kept in float32."""
    checksums: bool = False
    """Check the page checksums of every tensor in the first epoch (reading takes about three times as long)."""
    draws: Draws = field(default_factory=Draws)
    optimizer: Optimizer = field(default_factory=Optimizer)
    blocks: Blocks = field(default_factory=Blocks)
    parallel: Parallel = field(default_factory=Parallel)
    evaluation: Evaluation = field(default_factory=Evaluation)
    checkpoints: Checkpoints = field(default_factory=Checkpoints)
    samples: Samples = field(default_factory=Samples)
    logging: Logging = field(default_factory=Logging)

    def __post_init__(self) -> None:
        if self.steps < 1 or self.global_batch < 1 or self.micro_batch < 1:
            raise CallError(f"run: got steps={self.steps} global_batch={self.global_batch} micro_batch={self.micro_batch}; each is 1 or more. Type --steps 1000")

    def parts(self) -> dict[str, Any]:
        """What `--set part.field=value` may speak of, by name."""
        return {"run": self, self.method.name: self.method, **{name: getattr(self, name) for name in _PARTS}}

    def changed(self, settings: Sequence[str]) -> "Run":
        """The same run with each `part.field=value` replaced. Raises CallError with the names there are."""
        run = self
        for text in settings:
            part, field, value = typed(parse(text, noun="part", example="optimizer.lr=1e-4"), run.parts(), noun="part")
            if part == "run":
                run = dataclasses.replace(run, **{field: value})
            else:
                name = "method" if part == run.method.name else part
                run = dataclasses.replace(run, **{name: dataclasses.replace(getattr(run, name), **{field: value})})
        return run

    def describe(self) -> dict[str, Any]:
        """The run as JSON-able data."""
        return {**dataclasses.asdict(self), "method": {"name": self.method.name, **dataclasses.asdict(self.method)}}  # type: ignore[call-overload]

    @classmethod
    def described(cls, description: Mapping[str, Any], where: Path) -> "Run":
        """The run of which `describe` said this; other entries are passed over. Raises CallError, which names `where`, when it is another version's."""
        fields = {each.name: description[each.name] for each in dataclasses.fields(cls) if each.name in description}
        try:
            parts = {name: kind(**fields[name]) for name, kind in _PARTS.items() if name in fields}
            return cls(**{**fields, **parts, "method": method_from(fields["method"], where)})
        except (KeyError, TypeError) as error:
            raise CallError(f"{where}: is no run of this version of the program ({error}). Use the version that began it, or give another --out") from error


_PARTS = {
    "draws": Draws,
    "optimizer": Optimizer,
    "blocks": Blocks,
    "parallel": Parallel,
    "evaluation": Evaluation,
    "checkpoints": Checkpoints,
    "samples": Samples,
    "logging": Logging,
}
"""Field of a run -> what it holds."""
