"""Renders and pairs again and again, killed -9 before one of its file operations, and resumes.

A process of its own: every life and every look at what it left is a fork of it, so it imports once and must hold no threads.
Usage: killing_pairs.py CATALOG ROOT RECIPE FOLDER. Prints one line of JSON: how many states were tried. Exits 1 when one ends
otherwise than an undisturbed run.
"""

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import duckdb
from forks import forked

from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.prepare import in_process
from pipelines.synthesize import Request, synthesize
from vapdata.conditions.mined import Mined
from vapdata.conditions.rendered import Procedural

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "catalogs.exchange", "shutil.rmtree")
STATES = 12


def life(catalog: Path, root: str, recipe: str, kill_at: int) -> int:
    """One run, killed before its `kill_at`-th operation that changes a file of the catalog (0: never). How many there were."""
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in CHANGES and arguments and str(catalog) in os.fsdecode(str(arguments[0])) and not (event == "open" and arguments[1] in ("r", "rb")):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    providers = (Mined(), Procedural(only=("pan_left", "melt")))
    synthesize(Request(catalog=str(catalog), providers=providers, roots={"synthetic": root}, recipe=recipe), runner=in_process)
    return count


def state(catalog: Path) -> list[list[str]]:
    """Everything that two equal runs share, and what is wrong with it."""
    tables = {"pairs": "true", "conditions": "true", "videos": "true", "clips": "true", "captions": "true"}
    rows = [sorted(map(repr, duckdb.sql(f"select * exclude (run_id, commit, created_at) from '{catalog}/{name}/*.parquet'").fetchall())) for name in tables]
    files = sorted(str(path.relative_to(catalog)) for path in (catalog / "media").rglob("*"))
    return [*rows, files, [str(each) for each in verify(Catalog.open(catalog))]]


def answered(answer: Path, job: Callable[..., Any], *arguments: Any) -> tuple[int, Any]:
    """Exit status of a job in a process of its own, and what it returned."""
    status = os.waitstatus_to_exitcode(os.waitpid(forked(lambda: answer.write_text(json.dumps(job(*arguments)))), 0)[1])
    return status, json.loads(answer.read_text()) if status == 0 else None


def main(catalog: str, root: str, recipe: str, folder: str) -> int:
    """Tries every state; the exit status."""
    answer, undisturbed = Path(folder) / "answer.json", Path(shutil.copytree(catalog, Path(folder) / "undisturbed"))
    status, operations = answered(answer, life, undisturbed, root, recipe, 0)
    assert status == 0
    _, wanted = answered(answer, state, undisturbed)
    assert wanted[-1] == []
    tried = 0
    for number in range(STATES):
        copy = Path(shutil.copytree(catalog, Path(folder) / f"killed-{number}"))
        killed, _ = answered(answer, life, copy, root, recipe, 1 + (operations - 2) * number // (STATES - 1))
        tried += killed == -signal.SIGKILL
        resumed, _ = answered(answer, life, copy, root, recipe, 0)
        _, found = answered(answer, state, copy)
        if resumed or found != wanted:
            print(f"state {number} is not recovered from: {resumed}, {found and found[-1]}", file=sys.stderr)
            return 1
        shutil.rmtree(copy)
    print(json.dumps({"states": tried}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:5]))
