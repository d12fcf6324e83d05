"""Kill -9 in the midst of a backfill, at states counted in files written; the same call then goes on."""

import dataclasses
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import recipe
from vapdata.sources.synthetic import Synthetic

pytestmark = pytest.mark.slow

FILL = """
import dataclasses, sys
from pipelines import backfill, commit
from pipelines.prepare import in_process
from pipelines.recipes import recipe
from vapdata.filters.clarity import Clarity
from vapdata.filters.fingerprint import Fingerprint
from vapdata.filters.motion import Motion

commit.COMMIT_FIRST_S = 0.0  # after every shard, so that kills fall between and into commits
made = dataclasses.replace(recipe("tiny"), encode=(), scan=())
backfill.backfill(
    backfill.Request(catalog=sys.argv[1], steps=(Motion(), Clarity(), Fingerprint()), recipe=made, roots={"synthetic": sys.argv[2]}), runner=in_process
)
"""


def _written(catalog: Path) -> int:
    return sum(name.endswith((".parquet", ".json")) for _, _, names in os.walk(catalog) for name in names)


def _fill(catalog: Path, videos: Path, *, until: int | None = None) -> bool:
    """Runs the backfill, and kills it once `until` more files were written; False when it ended before."""
    start = _written(catalog)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", FILL, str(catalog), str(videos)], env=environment, stderr=subprocess.PIPE, start_new_session=True)
    while process.poll() is None and (until is None or _written(catalog) - start < until):
        time.sleep(0.005)
    killed = process.poll() is None
    if killed:
        os.killpg(process.pid, signal.SIGKILL)
    _, said = process.communicate()
    assert killed or process.returncode == 0, said.decode()
    return killed


def test_kills_leave_the_catalog_of_an_undisturbed_backfill(videos: Path, tmp_path: Path, assert_equal_catalogs: Callable) -> None:
    catalog, undisturbed = tmp_path / "catalog", tmp_path / "undisturbed"
    bare = dataclasses.replace(recipe("tiny"), encode=(), scan=())
    build(Request(source=Synthetic(root=str(videos), count=8), catalog=str(catalog), recipe=bare), runner=in_process)
    shutil.copytree(catalog, undisturbed)
    _fill(undisturbed, videos)
    killed = [_fill(catalog, videos, until=files) for files in (4, 9, 15)]
    assert sum(killed) >= 2, killed
    _fill(catalog, videos)
    assert_equal_catalogs(undisturbed, catalog)
    assert verify(Catalog.open(str(catalog))) == []
    assert not [path for path in catalog.rglob("*") if path.name.startswith(".") and path.is_file()], "unfinished files were left"
