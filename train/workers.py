"""A run's processes as Ray Train workers: `--workers 8 --address auto`, or without an address on a private Ray of this machine.

Ray starts the processes, on one machine or many, and starts them anew when one of them, or its machine, is lost. They then go on
from the newest checkpoint in the run's folder, with as many workers as there are (`--workers 4-8`): batches follow from
(seed, step, sample), so another number of them takes the same ones. The run's folder must be one folder for all machines.
The only file of `train` that imports ray. Exercised by `pytest tests/train/test_workers.py`.
"""

import contextlib
import logging
import os
import re
import signal
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from vapdata.errors import CallError, RunError, VapdataError

if TYPE_CHECKING:
    from train.loop import Finished
    from train.run import Run

log = logging.getLogger("train")

_QUIET = {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0", "RAY_BACKEND_LOG_LEVEL": "fatal", "RAY_TRAIN_V2_ENABLED": "1", "RAY_USAGE_STATS_ENABLED": "0"}


@dataclass(frozen=True, kw_only=True)
class Workers:
    """How many workers, where, and how often lost ones are replaced."""

    least: int
    most: int
    address: str | None = None
    """A Ray cluster, `auto` or `host:port`; None for a private Ray on this machine."""
    restarts: int = 3

    @classmethod
    def of(cls, asked: str, address: str | None, restarts: int) -> "Workers":
        """From `8` or `4-8`. Raises CallError for anything else."""
        found = re.fullmatch(r"(\d+)(?:-(\d+))?", asked.strip())
        least, most = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if not 1 <= least <= most:
            raise CallError(f"--workers {asked}: got neither a number nor a range of them. Type --workers 8, or --workers 4-8 for as many as there are")
        return cls(least=least, most=most, address=address, restarts=restarts)


def fit_on_workers(run: "Run", workers: Workers, *, catalog: str | None, folder: Path, resume: bool, weights: str | None, device: str | None) -> "Finished":
    """Trains as `train.loop.fit` does, in Ray Train workers. Raises what it raises; RunError when workers were lost too often."""
    from train.begin import anywhere, check_folder
    from train.loop import Finished
    from train.world import STOP

    check_folder(folder, resume=resume)
    told = {
        "run": run.describe(),
        "catalog": anywhere(catalog) if catalog or not resume else None,
        "folder": str(folder.absolute()),
        "resume": resume,
        "weights": weights and os.path.abspath(weights),
    }
    with _joined(workers) as ray, _stop_by_file(folder / STOP):
        answer = _ran(ray, workers, told, folder, device)
    if "error" in answer:
        kind, message = answer["error"]
        raise (CallError if kind == "CallError" else RunError)(message)
    finished = answer["finished"]
    return Finished(**{**finished, "export": Path(finished["export"]) if finished["export"] else None})


def _ran(ray: Any, workers: Workers, told: dict[str, Any], folder: Path, device: str | None) -> dict[str, Any]:
    """What the first worker has answered."""
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from train.world import PATIENCE

    there = ray.cluster_resources()
    gpus = _on_gpus(device, there.get("GPU", 0))
    if there.get("GPU" if gpus else "CPU", 0) < workers.least:
        log.warning("waiting for %d %s; the cluster has %d now", workers.least, "GPUs" if gpus else "CPUs", there.get("GPU" if gpus else "CPU", 0))
    trainer = TorchTrainer(
        worker,
        train_loop_config={**told, "device": "cuda" if gpus else "cpu"},
        torch_config=TorchConfig(backend="cpu:gloo,cuda:nccl" if gpus else "gloo", timeout_s=int(PATIENCE.total_seconds())),
        scaling_config=ScalingConfig(num_workers=workers.least if workers.least == workers.most else (workers.least, workers.most), use_gpu=gpus),
        run_config=RunConfig(name="ray", storage_path=str(folder.absolute() / "logs"), failure_config=FailureConfig(max_failures=workers.restarts)),
    )
    try:
        answer: dict[str, Any] = trainer.fit().return_value
    except ray.train.TrainingFailedError as error:
        raise RunError(
            f"workers were lost or failed {workers.restarts + 1} times: {_reason(error)}. What they said stands in {folder / 'logs'}; go on with --resume --out {folder}"
        ) from error
    finally:
        _forget_if_nothing_began(folder)
    return answer


def worker(told: dict[str, Any]) -> dict[str, Any]:
    """One worker. What it returns is the run's end, or what was wrong with the call: that is not tried again."""
    import torch.distributed as dist
    from ray.train.torch import get_device

    from train.loop import fit
    from train.run import Run
    from train.trained_run import CONFIG
    from train.world import world

    folder = Path(told["folder"])
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    begun = told["resume"] or (folder / CONFIG).exists()  # by an earlier set of workers: the driver has seen that there was none
    try:
        with world(str(get_device()) if told["device"] == "cuda" else "cpu") as here:
            run = Run.described(told["run"], folder / CONFIG)
            finished = fit(run, catalog=told["catalog"], folder=folder, world=here, resume=begun, weights=told["weights"])
    except VapdataError as error:
        if dist.is_initialized():
            dist.destroy_process_group()  # nobody waits for this one any longer
        return {"error": (type(error).__name__ if isinstance(error, CallError) else "RunError", str(error))}
    return {"finished": {**asdict(finished), "export": finished.export and str(finished.export)}}


@contextlib.contextmanager
def _joined(workers: Workers) -> Iterator[Any]:
    """Ray, joined or started, as long as the run takes. One that this process has joined already is left running."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)  # Ray reads some of these while it is imported
    import ray
    import ray.train

    if ray.is_initialized():
        yield ray
        return
    private: dict[str, Any] = {} if workers.address else {"include_dashboard": False, "num_cpus": max(workers.most, os.cpu_count() or 1)}
    try:
        ray.init(address=workers.address or "local", log_to_driver=False, logging_level=logging.ERROR, **private)
    except (ConnectionError, ValueError, RuntimeError) as error:
        where = f"no Ray cluster answers at {workers.address}" if workers.address else "Ray could not start on this machine"
        raise RunError(f"{where}: {_reason(error)}. See the README's section on clusters (address, token)") from error
    for name in ("ray.train", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _stop_by_file(file: Path) -> Iterator[None]:
    """SIGTERM asks the workers to save and end, by a file that they look for after each step."""

    def ask(number: int, frame: FrameType | None) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _on_gpus(device: str | None, there: float) -> bool:
    if device not in (None, "cpu", "cuda"):
        raise CallError(f"--device {device}: Ray gives each worker a device of its own. Type --device cpu or --device cuda")
    if device == "cuda" and not there:
        raise CallError("--device cuda: the Ray cluster has no GPU. Type --device cpu, or join one that has: --address host:port")
    return bool(there) if device is None else device == "cuda"


def _forget_if_nothing_began(folder: Path) -> None:
    """A call that was wrong leaves nothing behind: Ray's own records, where they are all that is there, go."""
    import shutil

    if folder.is_dir() and [path.name for path in folder.iterdir()] == ["logs"] and not [*(folder / "logs").glob("rank-*")]:
        shutil.rmtree(folder)


def _reason(error: BaseException) -> str:
    """The last line that says something, of an error that may carry a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
