"""What each process of a run says and measures, in the run's folder: one of many may be slow, or see the error that all die of.

    logs/rank-00001.log      what it logged, warnings and errors included
    logs/rank-00001.jsonl    a row a step: `seconds`, `waited_s` for the loader, `bytes` read, `loss` its share, `peak_memory_gb`

Written by every process of a run of several. What all of them are together stands in metrics.jsonl.
Exercised by `pytest tests/train/test_rank_log.py`.
"""

import contextlib
import json
import logging
import os
import socket
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TextIO

from train.world import World
from vapdata.errors import RunError, VapdataError

LOGS = "logs"


class RankLog:
    """One process's file of numbers; of a run of one process, none."""

    def __init__(self, file: TextIO | None) -> None:
        self._file = file

    def write(self, row: Mapping[str, Any]) -> None:
        """One line. Raises RunError when it cannot be written."""
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()
        except OSError as error:
            raise RunError(f"{self._file.name}: cannot be written ({error.strerror}). Free the disk and go on with --resume") from error


@contextlib.contextmanager
def rank_log(folder: Path, world: World) -> Iterator[RankLog]:
    """This process's log and numbers, appended to what earlier lives of the run have left."""
    if world.ranks == 1:
        yield RankLog(None)
        return
    where = folder / LOGS / f"rank-{world.rank:05d}"
    where.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(where.with_suffix(".log"), encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)

    def note(level: int, message: str, trace: Any = None) -> None:
        handler.handle(logging.LogRecord("train", level, __file__, 0, message, None, trace))

    note(logging.INFO, f"process {world.rank} of {world.ranks} on {socket.gethostname()}, pid {os.getpid()}")
    logging.getLogger().addHandler(handler)
    try:
        with where.with_suffix(".jsonl").open("a", encoding="utf-8") as file:
            yield RankLog(file)
    except BaseException as error:
        note(logging.ERROR, str(error) or type(error).__name__, None if isinstance(error, VapdataError) else sys.exc_info())
        raise
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
