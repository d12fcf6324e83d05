"""Kill -9 of the whole process tree, at states counted in files written; the same command then goes on."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from catalogs.store import Catalog
from catalogs.verify import verify

pytestmark = pytest.mark.slow


def command(videos: Path, catalog: Path) -> list[str]:
    build = [sys.executable, "-m", "vapdata.cli", "build", "--source", "synthetic", "--root", str(videos)]
    return [*build, "--set", "synthetic.count=8", "--catalog", str(catalog), "--recipe", "tiny"]


def written(catalog: Path) -> int:
    return sum(1 for path in catalog.rglob("*") if path.suffix == ".parquet" or path.parent.name == "journal")


def run_until(files: int, videos: Path, catalog: Path) -> bool:
    """Starts the build and kills its whole tree once so many more files were written; False when it ended before."""
    start = written(catalog) if catalog.exists() else 0
    process = subprocess.Popen(command(videos, catalog), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    while process.poll() is None:
        if catalog.exists() and written(catalog) >= start + files:
            break
        time.sleep(0.005)
    if process.poll() is not None:
        return False
    tree = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for each in tree:
        try:
            each.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(tree, timeout=10)
    process.wait()
    return True


def test_ten_kills_leave_the_catalog_of_an_undisturbed_build(
    videos: Path, built: Path, tmp_path: Path, assert_equal_catalogs: Callable
) -> None:
    catalog = tmp_path / "catalog"
    killed = [run_until(files, videos, catalog) for files in (1, 9, 16, 3, 7, 12, 5, 2, 10, 8)]
    assert sum(killed) >= 6, f"only {sum(killed)} of ten runs were cut off: {killed}"
    subprocess.run(command(videos, catalog), check=True, capture_output=True)
    assert_equal_catalogs(built, catalog)
    assert verify(Catalog.open(str(catalog))) == []
    assert not [path for path in catalog.rglob("*") if path.name.startswith(".") and path.is_file()], "unfinished files were left"
    shutil.rmtree(catalog)
