"""CLIP's alignment scores over a catalog: made members only, null where there is nothing to compare."""

import contextlib
from pathlib import Path

import numpy as np
import pytest

from catalogs.queries import connect
from catalogs.store import Catalog, settings_sha256
from catalogs.tensors import pack
from pipelines.alignment import by_clip
from pipelines.pairing import members_table
from vapdata.errors import CallError

PRODUCT = "embedding-x"


def _catalog(folder: Path, vectors: dict[str, np.ndarray]) -> Catalog:
    """Filmed clips d/0 ... d/4, a made one of each, and the embeddings that are given."""
    catalog = Catalog.open(folder / "catalog", create=True)
    facts = {"start_s": 0.0, "end_s": 2.0, "frames": 16, "fps": 8.0, "width": 160, "height": 96, "codec": "h264", "whole": True, "truncated": False}
    videos, clips = [], []
    for number in range(5):
        row = {"dataset": "d", "source": "folder", "name": str(number), "uri": f"{number}.mp4", "shard": "d-000000", "split": "train", "split_group": f"g{number}"}
        videos += [{**row, "video_id": f"d/{number}"}, {**row, "video_id": f"vap/{number}", "dataset": "vap", "parent_clip_id": f"d/{number}", "provider": "lora"}]
    clips = [{"clip_id": row["video_id"], "video_id": row["video_id"], "source": row["dataset"], "shard": row["shard"], "split": "train", **facts} for row in videos]
    with catalog.lock("test"):
        rows = {"videos": videos, "clips": clips}
        if vectors:
            file = catalog.write_tensors(PRODUCT, "d-000000", 0, [(clip, pack(vector, "f32")) for clip, vector in vectors.items()])
            told = {"product": PRODUCT, "model_id": "x", "revision": "1", "settings_sha256": settings_sha256({}), "shard": "d-000000", "file": file, "dtype": "f32"}
            rows["features"] = [{"clip_id": clip, "row_group": group, "shape": list(vector.shape), **told} for group, (clip, vector) in enumerate(vectors.items())]
        catalog.append(rows)
    return catalog


def _members(*names: str) -> list[dict]:
    return [{"clip_id": name, "condition": "melt", "category": "concept", "score": 70.0} for name in names]


def _scores(catalog: Catalog, *names: str) -> list[float | None]:
    with contextlib.closing(connect(catalog)) as con:
        return by_clip(catalog, con, members_table(_members(*names)), "").column("score").to_pylist()


def test_made_members_are_scored_by_how_they_move_and_filmed_ones_keep_their_label(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    move = rng.normal(size=8).astype(np.float32)
    filmed = {f"d/{number}": rng.normal(size=8).astype(np.float32) for number in range(5)}
    made = {f"vap/{number}": filmed[f"d/{number}"] + move for number in range(3)} | {"vap/3": filmed["d/3"]}  # the fourth did not move, the fifth has none
    catalog = _catalog(tmp_path, filmed | made)
    scores = _scores(catalog, "vap/0", "vap/1", "vap/2", "vap/3", "vap/4", "d/0")
    assert scores[:3] == pytest.approx([100.0] * 3, abs=1e-3)
    assert scores[3:] == [0.0, None, 70.0]
    assert _scores(catalog, "vap/0") == [None], "nothing to compare with"


def test_without_embeddings_the_call_says_what_to_type(tmp_path: Path) -> None:
    catalog = _catalog(tmp_path, {})
    assert _scores(catalog, "d/0") == [70.0], "filmed members ask for none"
    with pytest.raises(CallError, match="Type vapdata backfill embedding"):
        _scores(catalog, "vap/0")
