"""Kill -9 in the midst of a backfill, at states counted in files written; the same call then goes on."""

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import recipe
from vapdata.sources.synthetic import Synthetic

pytestmark = pytest.mark.slow


def _fill(catalog: Path, videos: Path, *files: int | None) -> list[bool]:
    """Runs the backfill as often, kills it once so many files have come, or lets it end; whether each was killed."""
    script = [sys.executable, str(Path(__file__).with_name("killing_runs.py")), "fill", str(catalog), str(videos), json.dumps(files)]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return list(json.loads(done.stdout.splitlines()[-1]))


def test_kills_leave_the_catalog_of_an_undisturbed_backfill(videos: Path, tmp_path: Path, assert_equal_catalogs: Callable) -> None:
    catalog, undisturbed = tmp_path / "catalog", tmp_path / "undisturbed"
    bare = dataclasses.replace(recipe("tiny"), encode=(), scan=())
    build(Request(source=Synthetic(root=str(videos), count=8), catalog=str(catalog), recipe=bare), runner=in_process)
    shutil.copytree(catalog, undisturbed)
    assert _fill(undisturbed, videos, None) == [False]
    killed = _fill(catalog, videos, 4, 9, 15, None)
    assert sum(killed) >= 2 and not killed[-1], killed
    assert_equal_catalogs(undisturbed, catalog)
    assert verify(Catalog.open(str(catalog))) == []
    assert not [path for path in catalog.rglob("*") if path.name.startswith(".") and path.is_file()], "unfinished files were left"
