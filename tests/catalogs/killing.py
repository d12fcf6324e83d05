"""Runs a catalog's whole life again and again, killed -9 before its first, second, ... file operation.

A process of its own: it forks, so it must hold no threads. Usage: killing.py FOLDER [EVERY]. Prints one line of
JSON: how many states were tried. Exits 1 with the state's number when one ends otherwise than an undisturbed run.
"""

import json
import os
import shutil
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[2]))

from catalog_samples import caption, clip, fill, latent, score, video

from catalogs.store import Catalog
from catalogs.tables import TABLES
from catalogs.verify import verify

CHANGES = ("open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "catalogs.exchange", "shutil.rmtree")
LINEAGE = ("run_id", "commit", "created_at")


def life(folder: str) -> None:
    """Everything a catalog goes through, each step skipped when its rows are there: as a resumed build does."""
    catalog = Catalog.open(folder, create=True)
    with catalog.lock("killed"):
        catalog.recover()
        if not catalog.read("runs").num_rows:
            fill(catalog)
        if catalog.read("videos").num_rows == 3:
            catalog.append({"videos": [video("c")], "clips": [clip("c")], "scores": [score("c", "motion", 3.0)], "captions": [caption("a", "changed")]})
        if catalog.read("latents").num_rows == 2:
            part = catalog.next_part("vae-9x96x160", "d-000000")
            file = catalog.write_tensors("vae-9x96x160", "d-000000", part, [("d/c", bytes(96))])
            digest = catalog.claim("vae-9x96x160", {"frames": 9, "fps": 8.0, "short": "reject"})
            catalog.append({"latents": [latent(catalog, "c", file, 0, digest)]})
        catalog.merge()
        if catalog.read("clips").num_rows == 3:
            catalog.append({"videos": [video("e")], "clips": [clip("e")], "scores": [score("a", "motion", 9.0)]})
        catalog.merge()


def killed_at(count: int, folder: str) -> None:
    """Dies before the count-th operation that changes a file of the catalog."""
    left = count

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal left
        if event in CHANGES and arguments and folder in os.fsdecode(str(arguments[0])) and not (event == "open" and arguments[1] in ("r", "rb")):
            left -= 1
            if left <= 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def killed_life(count: int, folder: str) -> None:
    """`life`, cut short."""
    killed_at(count, folder)
    life(folder)


def in_child(work: Callable[[], object]) -> int:
    """Runs `work` in a fork; returns the child's wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    try:
        work()
    except BaseException:  # noqa: BLE001 - the child must end here, whatever it is
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def plain_glob_is_right(folder: str) -> None:
    """What plain DuckDB sees at this moment: every table, no row twice, clips of known videos only."""
    connection = duckdb.connect()
    if not os.path.exists(f"{folder}/catalog.json"):
        return
    for name in TABLES:
        everything, distinct = connection.execute(f"select count(*), count(distinct t) from '{folder}/{name}/*.parquet' as t").fetchone()
        assert everything == distinct, f"{name}: {everything} rows, {distinct} distinct"
    orphans = connection.execute(
        f"select count(*) from '{folder}/clips/*.parquet' where video_id not in (select video_id from '{folder}/videos/*.parquet')"
    ).fetchone()
    assert orphans == (0,), "clips of videos that are not there"


def state(folder: str) -> str:
    """Everything in the catalog that two equal runs share."""
    catalog = Catalog.open(folder)
    tables = {}
    for name, table in TABLES.items():
        rows = catalog.read(name).drop_columns([each for each in LINEAGE if each not in table.key])
        tables[name] = sorted(map(repr, rows.to_pylist()))
    tensors = [catalog.read_tensor(row, check=True).tolist() for row in catalog.read("latents").sort_by("clip_id").to_pylist()]
    # a killed commit keeps its number, and so the files' names
    files = [path for path in catalog.files.walk("") if path.startswith("tensors/")] + [str(len(catalog.table_files(name))) for name in TABLES]
    return json.dumps([tables, tensors, files])


def check(folder: str, wanted: str) -> None:
    """After resuming: equal to an undisturbed run, and clean."""
    life(folder)
    found = [finding for finding in verify(Catalog.open(folder)) if finding.check != "stale"]
    assert not found, [str(finding) for finding in found]
    got = state(folder)
    assert got == wanted, f"differs:\n{got}\n{wanted}"


def main(base: str, every: int) -> int:
    pa.set_cpu_count(1)
    undisturbed = os.path.join(base, "undisturbed")
    answer = os.path.join(base, "answer.json")
    assert in_child(lambda: (life(undisturbed), Path(answer).write_text(state(undisturbed)))) == 0
    wanted = Path(answer).read_text()
    tried = 0
    for count in range(1, 10_000, every):
        folder = os.path.join(base, f"killed-{count}")
        status = in_child(partial(killed_life, count, folder))
        if in_child(partial(plain_glob_is_right, folder)) or in_child(partial(check, folder, wanted)):
            print(f"state {count} is not recovered from", file=sys.stderr)
            return 1
        shutil.rmtree(folder)
        if status == 0:
            break
        tried += 1
    print(json.dumps({"states": tried}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1))
