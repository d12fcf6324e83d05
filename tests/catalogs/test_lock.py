"""One writer per catalog; the dead are seen through."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from catalogs import lock
from catalogs.files import LocalFiles
from catalogs.lock import LOCK, STALE_S, Holder, Lock, alive, read_holder
from catalogs.store import Catalog
from vapdata.errors import CatalogLocked

HOLD = """
import sys, time
from catalogs.store import Catalog
with Catalog.open(sys.argv[1]).lock("vapdata build --source first"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.open(tmp_path / "catalog", create=True)


def _holding(catalog: Catalog) -> subprocess.Popen[str]:
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen([sys.executable, "-c", HOLD, catalog.uri], stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_is_told_who_holds_the_catalog(catalog: Catalog) -> None:
    with _holding(catalog) as process:
        try:
            with pytest.raises(CatalogLocked, match=f"in use by 'vapdata build --source first': process {process.pid} on .*, since 20.* UTC"), catalog.lock("x"):
                pass
        finally:
            process.kill()


def test_the_lock_of_a_killed_process_is_taken_over_at_once(catalog: Catalog) -> None:
    with _holding(catalog) as process:
        process.kill()
        process.wait()
        began = time.monotonic()
        with catalog.lock("second"):
            assert read_holder(catalog.files).command == "second"
        assert time.monotonic() - began < 5
    assert not catalog.files.exists(LOCK)


def test_a_later_process_with_the_number_of_the_dead_one_does_not_hold_it(catalog: Catalog) -> None:
    _write(catalog, pid=os.getpid(), started="1")
    with catalog.lock("second"):
        pass


def test_a_lock_from_another_machine_counts_for_a_minute_after_its_last_sign_of_life(catalog: Catalog) -> None:
    holder = _write(catalog, host="elsewhere", machine="other/pid:[1]", pid=1)
    assert alive(catalog.files, holder)
    with pytest.raises(CatalogLocked, match="on elsewhere"), catalog.lock("second"):
        pass
    path = Path(catalog.files.address(LOCK))
    os.utime(path, (time.time() - STALE_S - 5, time.time() - STALE_S - 5))
    with catalog.lock("second"):
        pass


def test_a_holder_that_lost_its_lock_is_told(catalog: Catalog) -> None:
    with catalog.lock("first"):
        _write(catalog, host="elsewhere", machine="other/pid:[1]", pid=1, command="thief")
        with pytest.raises(CatalogLocked, match="taken over by 'thief', process 1 on elsewhere"):
            catalog.append({"runs": [{"run_id": "r", "command": "c"}]})
    assert read_holder(catalog.files).command == "thief"


def test_the_holder_gives_signs_of_life(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "BEAT_S", 0.05)
    held = Lock(catalog.files, "first")
    held.take()
    path = Path(catalog.files.address(LOCK))
    os.utime(path, (1, 1))
    deadline = time.monotonic() + 10
    while path.stat().st_mtime < 100 and time.monotonic() < deadline:
        time.sleep(0.02)
    held.release()
    assert not path.exists()


def test_a_torn_lock_file_holds_nothing(catalog: Catalog) -> None:
    Path(catalog.files.address(LOCK)).write_text("{")
    with catalog.lock("second"):
        pass


def test_an_exception_gives_the_lock_back(catalog: Catalog) -> None:
    with pytest.raises(ZeroDivisionError), catalog.lock("first"):
        raise ZeroDivisionError
    assert catalog.files.names("") == ["catalog.json"]


def _write(catalog: Catalog, **changes: object) -> Holder:
    files = catalog.files
    assert isinstance(files, LocalFiles)
    mine = lock.this_process("first")
    facts = {**mine.__dict__, "token": "other", **changes}
    Path(files.address(LOCK)).write_text(json.dumps(facts))
    return Holder(**facts)
