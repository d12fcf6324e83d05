"""`vapdata retry`: failures that were for good get another chance."""

from pathlib import Path

from catalogs.queries import connect
from catalogs.store import Catalog
from pipelines.retry import retry


def failure(step: str, clip: str, *, permanent: bool, attempts: int) -> dict:
    return {"shard": "s", "video_id": clip, "clip_id": clip, "step": step, "error": "E", "message": "m", "attempts": attempts, "permanent": permanent}


def test_permanent_failures_and_those_out_of_attempts_start_anew(tmp_path: Path) -> None:
    catalog = Catalog.open(str(tmp_path), create=True)
    rows = [
        failure("vae", "a", permanent=True, attempts=1),
        failure("vae", "b", permanent=False, attempts=3),
        failure("vae", "c", permanent=False, attempts=1),
        failure("t5", "a", permanent=True, attempts=1),
    ]
    with catalog.lock("test"):
        catalog.append({"failures": rows})
    assert retry(catalog, step="vae", clip="a") == 1
    assert retry(catalog, step="vae") == 1
    con = connect(catalog)
    left = con.execute("select step, clip_id, attempts, permanent from failures order by all").fetchall()
    con.close()
    assert left == [("t5", "a", 1, True), ("vae", "a", 0, False), ("vae", "b", 0, False), ("vae", "c", 1, False)]
