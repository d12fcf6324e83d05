"""Stages over shards on Ray Data: the only file of `pipelines` that imports ray.

Small records stream through one actor pool per stage; the caller gets each record as it comes out and commits.
A worker that dies is replaced and its shard tried again by Ray; the notes that stages keep bound how often.
Exercised by `pytest tests/pipelines/test_run.py`, and by every build.
"""

import logging
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_QUIET = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",  # leaves CUDA_VISIBLE_DEVICES of CPU workers alone; silences its warning
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # a dead worker is our business: its clip becomes a row of `failures`
    "RAY_USAGE_STATS_ENABLED": "0",
}
for _name, _value in _QUIET.items():
    os.environ.setdefault(_name, _value)  # Ray reads some of these while it is imported

import ray  # noqa: E402
import ray.cloudpickle as cloudpickle  # noqa: E402
from ray.data import ActorPoolStrategy, DataContext  # noqa: E402

from pipelines.recipes import own_modules  # noqa: E402
from pipelines.record import Progress, Record  # noqa: E402
from pipelines.stages import Stage  # noqa: E402
from pipelines.work import ShardWork  # noqa: E402
from vapdata.errors import RunError  # noqa: E402

CONNECT_S = 10.0

log = logging.getLogger(__name__)

def stream(
    works: Sequence[ShardWork], stages: Sequence[Stage], *, address: str | None, on_progress: Callable[[Progress], None], every_s: float = 0.5
) -> Iterator[Record]:
    """Runs every shard through `stages`, in no particular order; yields each record once it is through.

    `address` joins a running cluster (`auto`, `host:port`); None starts a private Ray on this machine, which ends
    with the iteration. Raises RunError when Ray cannot be reached or a stage cannot be opened.
    """
    with quiet_ray(address):
        tally = ray.remote(_Tally).options(num_cpus=0).remote()
        watcher = _Watcher(tally, on_progress, every_s)
        try:
            yield from _records(works, stages, tally)
        finally:
            watcher.stop()


def _records(works: Sequence[ShardWork], stages: Sequence[Stage], tally: Any) -> Iterator[Record]:
    blobs = [{"record": cloudpickle.dumps(Record(work=work))} for work in works]
    data = ray.data.from_items(blobs, override_num_blocks=len(blobs))
    shares = _shares(stages)
    for stage, (cpus, gpus, size) in zip(stages, shares, strict=True):
        data = data.map(
            _Worker,
            fn_constructor_args=(_by_value(stage), tally),
            compute=ActorPoolStrategy(min_size=1, max_size=min(size, len(blobs)), max_tasks_in_flight_per_actor=2),
            num_cpus=cpus,
            num_gpus=gpus or None,
        )
    try:
        for row in data.iter_rows():
            yield cloudpickle.loads(row["record"])
    except ray.exceptions.RayError as error:
        raise RunError(f"the run stopped: {_reason(error)}. What was committed is kept; run the same command again to go on.") from error


def _shares(stages: Sequence[Stage]) -> list[tuple[float, float, int]]:
    """CPUs and GPUs per worker, and the largest pool, of each stage.

    On a machine with fewer CPUs than the stages ask for together, shares shrink so that one worker of each fits:
    with whole CPUs the pools would run one after another.
    """
    have = ray.cluster_resources()
    cpus, gpus = have.get("CPU", 1.0), have.get("GPU", 0.0)
    scale = min(1.0, cpus / sum(stage.cpus for stage in stages))
    shares = []
    for stage in stages:
        own_cpus = round(stage.cpus * scale, 3)
        own_gpus = stage.gpus if gpus else 0.0
        largest = gpus / own_gpus if own_gpus else cpus / own_cpus
        shares.append((own_cpus, own_gpus, max(1, int(largest))))
    return shares


class _Worker:
    """One actor: a stage, opened once."""

    def __init__(self, stage: bytes, tally: Any):
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            os.environ[name] = "1"  # before torch is imported: pools of workers share the cores, each worker keeps to its own
        self._stage = cloudpickle.loads(stage).open()
        self._tally = tally

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        record = self._stage(cloudpickle.loads(row["record"]), self._tick)
        return {"record": cloudpickle.dumps(record)}

    def _tick(self, stage: str, done: int, failed: int) -> None:
        self._tally.add.remote(stage, done, failed)


class _Tally:
    """Counts what all workers did, for the progress lines; an actor, so that it can be told from anywhere."""

    def __init__(self) -> None:
        self.progress = Progress()

    def add(self, stage: str, done: int, failed: int) -> None:
        """Counts `done` pieces of work, `failed` of them in vain."""
        self.progress.add(stage, done, failed)

    def read(self) -> Progress:
        """The counts so far."""
        return self.progress


class _Watcher:
    """Shows progress from a thread of its own, since the driver waits for records."""

    def __init__(self, tally: Any, show: Callable[[Progress], None], every_s: float):
        self._tally, self._show, self._every_s = tally, show, every_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="vapdata-progress", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Shows the last counts and ends the thread."""
        self._stop.set()
        self._thread.join()
        self._read()

    def _watch(self) -> None:
        while not self._stop.wait(self._every_s):
            self._read()

    def _read(self) -> None:
        try:
            self._show(ray.get(self._tally.read.remote(), timeout=5.0))
        except ray.exceptions.RayError as error:
            log.debug("no progress to show: %s", error)


def _by_value(stage: Stage) -> bytes:
    """The stage, pickled so that classes of a `file.py:function` recipe travel with it."""
    modules = own_modules()
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        return cloudpickle.dumps(stage)
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


@contextmanager
def quiet_ray(address: str | None, cpus: int | None = None) -> Iterator[None]:
    """Ray, joined at `address` or started privately with `cpus`, with its own chatter kept out of the way.

    A Ray that this process has already joined is used as it is and left running.
    """
    joined = ray.is_initialized()
    if not joined:
        _reach(address)
        private: dict[str, Any] = {} if address else {"include_dashboard": False, "num_cpus": cpus}
        try:
            with _silent_stderr():  # its C++ side announces its own log level there
                ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **private)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = f"no Ray cluster answers at {address}" if address else "Ray could not start on this machine"
            raise RunError(f"{where}: {_reason(error)}. See the README's section on clusters (address, token)") from error
    context = DataContext.get_current()
    before = (context.max_errored_blocks, context.enable_progress_bars)
    context.max_errored_blocks, context.enable_progress_bars = -1, False
    for name in ("ray.data", "ray"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        context.max_errored_blocks, context.enable_progress_bars = before
        if not joined:
            ray.shutdown()


def _reach(address: str | None) -> None:
    """Raises RunError when nothing listens at `host:port`: Ray itself would wait for minutes, without a word."""
    host, colon, port = (address or "").removeprefix("ray://").rpartition(":")
    if not colon or not port.isdigit():
        return
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_S).close()
    except OSError as error:
        raise RunError(f"no Ray cluster answers at {address}: {error}. Start one (ray start --head), or leave --address out for a private Ray") from error


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Sends the process's standard error, C++ code's included, nowhere for a moment."""
    sys.stderr.flush()
    kept = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _reason(error: BaseException) -> str:
    """The last line that says something, of an error that may carry a remote traceback."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
