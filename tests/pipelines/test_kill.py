"""Kill -9 of the whole process tree, at states counted in files written; the same command then goes on."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from catalogs.store import Catalog
from catalogs.verify import verify

pytestmark = pytest.mark.slow


IN_A_PROCESS = (12, 18, 23, 28, 33, 40, 48, 55)
"""Files that are there when a run is killed."""
ON_RAY = (63, 76)
"""The same, where a private Ray goes with the run."""


def command(videos: Path, catalog: Path) -> list[str]:
    build = [sys.executable, "-m", "vapdata.cli", "build", "--source", "synthetic", "--root", str(videos)]
    return [*build, "--set", "synthetic.count=8", "--catalog", str(catalog), "--recipe", "tiny"]


def written(catalog: Path) -> int:
    """How many files of rows, tensors and journal there are now; folders may vanish while they are counted."""
    return sum(name.endswith((".parquet", ".json")) for _, _, names in os.walk(catalog) for name in names)


def marked(mark: str) -> list[psutil.Process]:
    """Every process that inherited `mark`: Ray's own, which leave the tree of the command that started them, too."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("VAPDATA_TEST_MARK") == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return found


def kill_all(mark: str) -> None:
    """Kill -9 until nothing with `mark` is left."""
    while tree := marked(mark):
        for process in tree:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(tree, timeout=10)


def run_until(files: int, videos: Path, catalog: Path) -> bool:
    """Starts the build and kills its whole tree once there are so many files; False when it ended before."""
    mark = uuid.uuid4().hex
    environment = {**os.environ, "VAPDATA_TEST_MARK": mark}
    process = subprocess.Popen(command(videos, catalog), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        while process.poll() is None and written(catalog) < files:
            time.sleep(0.005)
        return process.poll() is None
    finally:
        kill_all(mark)
        process.wait()


def test_ten_kills_leave_the_catalog_of_an_undisturbed_build(
    videos: Path, built: Path, tmp_path: Path, build_here: Callable, assert_equal_catalogs: Callable
) -> None:
    catalog = tmp_path / "catalog"
    script = [sys.executable, str(Path(__file__).with_name("killing_runs.py")), "build", str(catalog), str(videos), json.dumps(IN_A_PROCESS)]
    forks = subprocess.run(script, capture_output=True, text=True, check=False)
    assert forks.returncode == 0, forks.stderr[-6000:]
    killed = [*json.loads(forks.stdout.splitlines()[-1]), *(run_until(files, videos, catalog) for files in ON_RAY)]
    assert sum(killed) >= 6, f"only {sum(killed)} of ten runs were cut off: {killed}"
    build_here(catalog)
    assert_equal_catalogs(built, catalog)
    assert verify(Catalog.open(str(catalog))) == []
    assert not [path for path in catalog.rglob("*") if path.name.startswith(".") and path.is_file()], "unfinished files were left"
    shutil.rmtree(catalog)
