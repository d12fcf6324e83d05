"""What the loop does to a method's per-block function: activation checkpointing and torch.compile.

Exercised by `pytest tests/train/test_blocks.py`.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

Keep = Literal["everything", "attention", "nothing"]

_ATTENTION = (
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
    torch.ops.aten._scaled_dot_product_attention_math.default,
)
"""Every kernel that scaled_dot_product_attention may choose."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How each block is run."""

    keep: Keep = "everything"
    """Which activations of a block are kept for the backward pass; what is not kept is computed again there.

    `attention` keeps the attention kernels' results alone: for long sequences most of the time for little of the memory.
    """
    compile: bool = False
    """torch.compile per block, so that one block's code serves all."""

    def wrap(self, block: Callable[..., Any]) -> Callable[..., Any]:
        """`block`, run as this says. Checkpointing is non-reentrant and preserves the random state."""
        run = torch.compile(block) if self.compile else block
        if self.keep == "everything":
            return run
        contexts: dict[str, Any] = {"context_fn": _keep_attention} if self.keep == "attention" else {}

        @functools.wraps(block)
        def checkpointed(*arguments: Any) -> Any:
            if not torch.is_grad_enabled():
                return run(*arguments)
            return checkpoint(run, *arguments, use_reentrant=False, **contexts)

        return checkpointed


def _keep_attention() -> Any:
    def policy(context: Any, operator: Any, *arguments: Any, **options: Any) -> CheckpointPolicy:
        return CheckpointPolicy.MUST_SAVE if operator in _ATTENTION else CheckpointPolicy.PREFER_RECOMPUTE

    return create_selective_checkpoint_contexts(policy)
