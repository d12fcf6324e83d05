"""Whatever instant a kill -9 comes, resuming gives the catalog of an undisturbed run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killing.py")


def _killed(folder: Path, every: int) -> int:
    command = [sys.executable, str(SCRIPT), str(folder), str(every)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-6000:]
    return int(json.loads(done.stdout)["states"])


@pytest.mark.slow
def test_a_kill_at_every_twenty_ninth_file_operation_is_recovered_from(tmp_path: Path) -> None:
    """At every single one, which takes long: `python tests/catalogs/killing.py FOLDER`."""
    assert _killed(tmp_path, 29) >= 10
