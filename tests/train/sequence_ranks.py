"""Two processes that share each sample's tokens, or weights, beside one that holds all of them. Usage: sequence_ranks.py FOLDER CASES.

CASES is a JSON list of [backbone, method, fields of the method, settings of parallel, settings of blocks]. Each process
writes FOLDER/rank-N.json: for each case how far losses, prediction and the gradients of all processes together are from one
process's, relative to the largest; how many tokens each process held; and whether a weight got no gradient on either side.
"""

import importlib
import json
import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor

from train import METHODS
from train.backbones import load_backbone
from train.batch import Batch
from train.blocks import Blocks
from train.method import Stream, unwrapped
from train.parallel import Parallel
from train.shadow import _batch
from train.world import world
from vapdata import backbones, registry

SHAPE = (16, 3, 6, 6)
"""27 video tokens: 14 and 13."""
SECONDS = 900
IMPORTED = (
    "torch._dynamo",
    *(f"diffusers.models.transformers.transformer_{family}" for family in ("wan", "hunyuan_video")),
    "diffusers.models.transformers.cogvideox_transformer_3d",
    *(f"train.backbones.{family}" for family in ("cogvideox", "hunyuan", "wan")),
    *(f"train.{method}" for method in ("fca", "fg", "full", "ssg", "vap")),
)
"""What both processes need, imported once before the fork."""


def drawn(batch: Batch) -> Batch:
    """The batch with numbers in it; texts have true rows and padding."""

    def filled(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.dtype == torch.bool:
            return torch.arange(tensor.shape[1])[None] < torch.tensor([[tensor.shape[1] // 2], [tensor.shape[1] - 1]])
        if not tensor.is_floating_point():
            return tensor if tensor.dtype != torch.uint8 else torch.randint(256, tensor.shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(tensor.numel())) if tensor.dim() > 1 else tensor

    return batch.map(filled)


def drawn_alike(method: Any, backbone: Any, wrap: Any) -> Any:
    """The method's module, whose random weights are the same each time."""
    torch.manual_seed(0)
    return method.attach(backbone, wrap)


def measured(case: list[Any], here: Any) -> dict[str, Any]:
    """One case."""
    name, method_name, fields, parallel, blocks = case
    facts = backbones.backbone(name)
    method = registry.load(METHODS, method_name, "method")(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    reads = method.reads(facts) | load_backbone(facts, dtype=torch.float32, device=here.device).reads()
    batch = drawn(_batch(facts, reads, SHAPE, 2))

    def loaded() -> Any:
        return load_backbone(facts, dtype=torch.float32, device=here.device)

    alone = loaded()
    whole = drawn_alike(method, alone, unwrapped)
    wanted = whole(batch)
    if wanted.requires_grad:
        wanted.mean().backward()
    layout = Parallel(**parallel).over(here)
    held: list[int] = []
    split = layout.backbone(loaded(), method)

    def seen(block: Any) -> Any:
        def run(*arguments: Any) -> Any:
            streams = next(each for each in arguments if isinstance(each, Stream | tuple))
            held.append((streams[0] if isinstance(streams, tuple) else streams).video.shape[1])
            return block(*arguments)

        return run

    module = drawn_alike(method, split, layout.wrap(lambda block: seen(Blocks(**blocks).wrap(block))))
    if layout.in_step:
        with layout.alone(), torch.no_grad():
            module(batch)
    held.clear()
    spread = layout.spread(module, torch.float32)
    losses = spread(batch)
    if losses.requires_grad:
        losses.mean().backward()  # every process sees the same samples, so the mean over processes is that of one
    apart, scale, silent = 0.0, 0.0, []
    for (name, own), other in zip(module.named_parameters(), whole.parameters(), strict=True):
        if (own.grad is None) != (other.grad is None):
            silent.append(name)
        if own.grad is None or other.grad is None:
            continue
        gradient = own.grad.full_tensor() if isinstance(own.grad, DTensor) else own.grad
        apart, scale = max(apart, float((gradient - other.grad).abs().max())), max(scale, float(other.grad.abs().max()))
    arguments = (batch.noise, batch.timesteps, batch.target, batch.references)
    with torch.no_grad():
        predicted, target = (spread if layout.is_sharded else module).predict(*arguments), whole.predict(*arguments)
    return {
        "losses": float((losses.detach() - wanted.detach()).abs().max()),
        "gradients": apart / scale if scale else apart,
        "prediction": float((predicted - target).abs().max() / target.abs().max()),
        "held": sorted({*held}),
        "silent": silent,
    }


def ranked(rank: int, port: int, folder: Path, cases: list[list[Any]]) -> None:
    """One process."""
    signal.alarm(SECONDS)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    with world("cpu") as here:
        found = [measured(case, here) for case in cases]
        dist.barrier()
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        free = int(tried.getsockname()[1])
    child = os.fork()
    ranked(int(child == 0), free, Path(sys.argv[1]), json.loads(sys.argv[2]))
    if child == 0:
        os._exit(0)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
