import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.utils._python_dispatch import TorchDispatchMode

from train.blocks import Blocks, Keep


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        heads = self.project(x).unflatten(-1, (2, 4)).transpose(1, 2)
        return x + scaled_dot_product_attention(heads, heads, heads).transpose(1, 2).flatten(2)


class Counted(TorchDispatchMode):
    """Counts how often an attention kernel's forward runs."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = str(function)
        self.attention += "scaled_dot_product" in name and "backward" not in name
        return function(*args, **(kwargs or {}))


def _gradients(keep: Keep) -> tuple[list[Tensor], int]:
    torch.manual_seed(0)
    block = Attending()
    run = Blocks(keep=keep).wrap(block)
    x = torch.randn(2, 5, 8, requires_grad=True)
    with Counted() as counted:
        run(run(x)).square().sum().backward()
    return [x.grad, *(each.grad for each in block.parameters())], counted.attention


@pytest.mark.parametrize(("keep", "kernels"), [("everything", 2), ("nothing", 4), ("attention", 2)])
def test_gradients_do_not_depend_on_what_is_kept_and_attention_is_computed_again_only_where_it_was_dropped(keep: Keep, kernels: int) -> None:
    expected, _ = _gradients("everything")
    found, counted = _gradients(keep)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert counted == kernels


def test_without_gradients_nothing_is_checkpointed() -> None:
    block = Attending()
    x = torch.randn(1, 3, 8)
    with torch.no_grad():
        assert torch.equal(Blocks(keep="nothing").wrap(block)(x), block(x))
