"""Lives of training runs: each a process, or several, that may be killed -9 or asked to stop on its way.

A process of its own: it forks, so it must hold no threads. Usage: lives.py FILE, where FILE holds a JSON list of lives:

    method, arguments    what is typed after `python -m train.<method>`
    ranks                processes, as torchrun starts them
    die_at               killed before so many file operations in the run's folder, counted once it has a checkpoint; 0: never
    stop_at              SIGTERM comes when so many rows of metrics.jsonl are written by this life; 0: never
    log                  file that output and errors go to

Prints a JSON list: the exit status of each life's processes, -9 for one that was killed.
"""

import importlib
import json
import os
import signal
import socket
import sys
import traceback
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from train.checkpoint import newest
from train.launch import main
from train.record import METRICS

IMPORTED = ("diffusers.models.transformers.cogvideox_transformer_3d", "torch._dynamo", "train.full", "train.index", "train.loop", "train.recipes", "train.sampler")
"""What lives would import, each for itself."""
CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "shutil.rmtree")
SECONDS = 900
"""After which a life is given up."""


@dataclass(frozen=True, kw_only=True)
class Life:
    """One of the list; see the head of this file."""

    method: str
    arguments: list[str]
    log: str
    ranks: int = 1
    die_at: int = 0
    stop_at: int = 0

    @property
    def folder(self) -> Path:
        """The run's."""
        return Path(self.arguments[self.arguments.index("--out") + 1])


def dying(life: Life) -> None:
    """This process dies before a file operation."""
    left, folder = life.die_at, str(life.folder)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event not in CHANGES or not arguments or folder not in str(arguments[0]) or (event == "open" and arguments[1] in ("r", "rb", None)):
            return
        left -= newest(life.folder) is not None
        if left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def stopping(life: Life) -> None:
    """This process is sent SIGTERM when it writes a row."""
    left, path = life.stop_at, str(life.folder / METRICS)

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event == "open" and str(arguments[0]) == path and arguments[1] == "a":
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGTERM)

    sys.addaudithook(hook)


def live(life: Life, rank: int, port: int) -> None:
    """One process of a life: the command line."""
    signal.alarm(SECONDS)
    log = os.open(life.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if life.ranks > 1:
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(life.ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if life.die_at:
        dying(life)
    if life.stop_at and rank == 0:
        stopping(life)
    sys.argv = [f"train.{life.method}", *life.arguments]
    main(life.method)


def forked(life: Life, rank: int, port: int) -> int:
    """The child's process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        live(life, rank, port)
    except SystemExit as ended:
        status = int(ended.code or 0)
    except BaseException:  # noqa: BLE001 - the child must end here, whatever it is
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


def lived(life: Life) -> list[int]:
    """Exit statuses of a life's processes."""
    port = free_port() if life.ranks > 1 else 0
    children = [forked(life, rank, port) for rank in range(life.ranks)]
    return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


if __name__ == "__main__":
    for name in IMPORTED:
        importlib.import_module(name)
    print(json.dumps([lived(Life(**each)) for each in json.loads(Path(sys.argv[1]).read_text())]))
