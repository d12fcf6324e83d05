"""Notes on the clips that workers are busy with, so that a clip that kills its worker is known by name.

A note is a small file that the worker writes before it starts and removes when it is through, well or not. What
is still there after a worker died says which clip it died on, and how often. Exercised by `pytest tests/catalogs/test_store.py`.
"""

import hashlib
import json

from catalogs.files import Files

FOLDER = ".running"


def note(files: Files, shard: str, step: str, clip_id: str) -> int:
    """Notes that a step is about to work on a clip. Returns how often it was noted, this time included."""
    count = attempts(files, shard, step, clip_id) + 1
    text = json.dumps({"shard": shard, "step": step, "clip_id": clip_id, "attempts": count}).encode()
    files.write_bytes(_path(shard, step, clip_id), text, durable=False)
    return count


def attempts(files: Files, shard: str, step: str, clip_id: str) -> int:
    """How often the clip was noted and not cleared."""
    data = files.read(_path(shard, step, clip_id))
    return 0 if data is None else int(json.loads(data)["attempts"])


def clear(files: Files, shard: str, step: str, clip_id: str) -> None:
    """Forgets the note."""
    files.remove(_path(shard, step, clip_id))


def clear_all(files: Files) -> None:
    """Forgets every note: a killed build's notes say nothing about the clips."""
    files.remove_folder(FOLDER)


def _path(shard: str, step: str, clip_id: str) -> str:
    name = "\0".join((shard, step, clip_id)).encode("utf-8", "surrogatepass")
    return f"{FOLDER}/{hashlib.sha256(name).hexdigest()[:32]}.json"
