"""Renders and pairs again and again, killed -9 before one of its file operations, and resumes.

Usage: killing_pairs.py CATALOG ROOT RECIPE FOLDER. Every state is a process of its own. Prints one line of JSON: how many states were
tried. Exits 1 when one ends otherwise than an undisturbed run.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "catalogs.exchange", "shutil.rmtree")
STATES = 12


def life(catalog: str, root: str, recipe: str, kill_at: int) -> None:
    """One run, killed before its `kill_at`-th operation that changes a file of the catalog (0: never). Prints how many there were."""
    from pipelines.prepare import in_process
    from pipelines.synthesize import Request, synthesize
    from vapdata.conditions.mined import Mined
    from vapdata.conditions.rendered import Procedural

    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event in CHANGES and arguments and catalog in os.fsdecode(str(arguments[0])) and not (event == "open" and arguments[1] in ("r", "rb")):
            count += 1
            if count == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    providers = (Mined(), Procedural(only=("pan_left", "melt")))
    synthesize(Request(catalog=catalog, providers=providers, roots={"synthetic": root}, recipe=recipe), runner=in_process)
    print(count)


def state(catalog: Path) -> list[object]:
    """Everything that two equal runs share."""
    import duckdb

    tables = {"pairs": "true", "conditions": "true", "videos": "true", "clips": "true", "captions": "true"}
    rows = [sorted(map(repr, duckdb.sql(f"select * exclude (run_id, commit, created_at) from '{catalog}/{name}/*.parquet'").fetchall())) for name in tables]
    return [*rows, sorted(str(path.relative_to(catalog)) for path in (catalog / "media").rglob("*"))]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, __file__, "life", *arguments], capture_output=True, text=True, check=False)


def main(catalog: str, root: str, recipe: str, folder: str) -> int:
    from catalogs.store import Catalog
    from catalogs.verify import verify

    undisturbed = Path(shutil.copytree(catalog, Path(folder) / "undisturbed"))
    whole = run(str(undisturbed), root, recipe, "0")
    assert whole.returncode == 0, whole.stderr
    wanted, operations = state(undisturbed), int(whole.stdout.splitlines()[-1])
    tried = 0
    for number in range(STATES):
        copy = Path(shutil.copytree(catalog, Path(folder) / f"killed-{number}"))
        killed = run(str(copy), root, recipe, str(1 + (operations - 2) * number // (STATES - 1)))
        tried += killed.returncode == -signal.SIGKILL
        resumed = run(str(copy), root, recipe, "0")
        found = verify(Catalog.open(copy)) if not resumed.returncode else [resumed.stderr]
        if found or state(copy) != wanted:
            print(f"state {number} is not recovered from: {[str(each) for each in found][:3]}", file=sys.stderr)
            return 1
        shutil.rmtree(copy)
    print(json.dumps({"states": tried}))
    return 0


if __name__ == "__main__":
    if sys.argv[1] == "life":
        life(sys.argv[2], sys.argv[3], sys.argv[4], int(sys.argv[5]))
    else:
        sys.exit(main(*sys.argv[1:5]))
