"""One small real catalog for every test of training: synthetic clips, the tiny recipe, pairs by known direction."""

import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from catalogs import lock
from catalogs.store import Catalog
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import recipe, with_settings
from vapdata import tiny_trained
from vapdata.sources.openvid import OpenVid
from vapdata.sources.synthetic import Synthetic

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode: hand_made.py lies beside the tests

VIDEOS = 24
GRID = (("sampling", "height", 32), ("sampling", "width", 32), ("sampling", "fps", 8.0))
"""9 frames of 32 x 32: latents of (16, 3, 4, 4)."""
Once = Callable[[str, Callable[[Path], object]], Path]
LINEAGE = ("run_id", "commit", "created_at")


@pytest.fixture(scope="module")
def drawn_weights(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tiny models as they are drawn, without the weights that ship: for tests that teach a backbone of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_trained, "FOLDER", tmp_path_factory.mktemp("untrained"))
        yield


@pytest.fixture(scope="session")
def tiny_catalog(made_once: Once) -> Path:
    """28 clips of 24 synthetic videos with all that the recipe `tiny` makes at 9 x 32 x 32, and pairs of clips that move alike.

    The eight clips of the four videos with two shots have no caption, hence no mask, and are in no pair. The last clip of
    each direction is in the split validation: a target there, with references in train. Copy it (`fresh_catalog`)
    before changing it.
    """

    def make(root: Path) -> None:
        source = Synthetic(root=str(root / "videos"), count=VIDEOS, seconds=1.25, height=48, width=64)
        made = with_settings(recipe("tiny"), GRID)
        build(Request(source=source, catalog=str(root / "catalog"), recipe=made, command="vapdata build --source synthetic --recipe tiny"), runner=in_process)
        pair_by_direction(Catalog.open(root / "catalog"))

    return made_once("tiny", make) / "catalog"


@pytest.fixture(scope="session")
def openvid_catalog(real_clips: Path, made_once: Once) -> Path:
    """The real OpenVid clips with all that the recipe `tiny-wan` encodes, at 9 x 32 x 32: masks, first frames and keywords among it. No scores."""

    def make(folder: Path) -> None:
        made, source = replace(with_settings(recipe("tiny-wan"), GRID[:2]), scan=()), OpenVid(root=str(real_clips / "openvid"))
        build(Request(source=source, catalog=str(folder / "catalog"), recipe=made, command="vapdata build --source openvid --recipe tiny-wan"), runner=in_process)

    return made_once("openvid", make) / "catalog"


@pytest.fixture
def fresh_catalog(tiny_catalog: Path, tmp_path: Path) -> Path:
    """A copy of `tiny_catalog` that a test may change."""
    return Path(shutil.copytree(tiny_catalog, tmp_path / "catalog"))


@pytest.fixture
def change() -> Callable[[Path, str, Callable[[dict[str, Any]], dict[str, Any] | None]], int]:
    """change(catalog, table, new): appends `new(row)` for every newest row for which it is not None. Returns how many."""

    def run(path: Path, table: str, new: Callable[[dict[str, Any]], dict[str, Any] | None]) -> int:
        catalog = Catalog.open(path)
        rows = [made for row in catalog.read(table).to_pylist() if (made := new(plain(row))) is not None]
        with catalog.lock("pytest"):
            catalog.append({table: rows})
        return len(rows)

    return run


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Address of a place for a catalog in a real S3 server on this machine."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(lock, "SETTLE_S", 0.05)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1").create_bucket(Bucket="bucket")
    yield f"s3://bucket/c?endpoint_override={host}:{port}&scheme=http&region=us-east-1"
    server.stop()


def pair_by_direction(catalog: Catalog) -> None:
    """Appends conditions and pairs, by the direction that the synthetic source knows of each whole clip."""
    directions = {row["clip_id"]: row["label"] for row in catalog.read("scores").to_pylist() if row["filter"] == "synthetic_direction"}
    clips = {row["clip_id"]: plain(row) for row in catalog.read("clips").to_pylist()}
    videos = {row["video_id"]: plain(row) for row in catalog.read("videos").to_pylist()}
    alike = defaultdict(list)
    for clip, direction in sorted(directions.items()):
        alike[direction].append(clip)
    held_out = {members[-1] for members in alike.values() if len(members) > 2}
    splits = {clip: "validation" if clip in held_out else "train" for clip in directions}
    with catalog.lock("pytest"):
        catalog.append(
            {
                "videos": [videos[clips[clip]["video_id"]] | {"split": split} for clip, split in splits.items()],
                "clips": [clips[clip] | {"split": split} for clip, split in splits.items()],
                "conditions": [_condition(clip, direction) for clip, direction in sorted(directions.items())],
                "pairs": [
                    _pair(direction, reference, target, splits[target])
                    for direction, members in sorted(alike.items())
                    for target in members
                    for reference in members
                    if reference != target and splits[reference] == "train"
                ],
            }
        )


def plain(row: dict[str, Any]) -> dict[str, Any]:
    """A row without what the catalog adds by itself."""
    return {name: value for name, value in row.items() if name not in LINEAGE}


def _condition(clip: str, direction: str) -> dict[str, Any]:
    return {"clip_id": clip, "condition": f"moves-{direction}", "category": "motion", "provider": "truth", "score": 100.0, "generation": "g1"}


def _pair(direction: str, reference: str, target: str, split: str) -> dict[str, Any]:
    return {
        "pair_id": f"{direction}:{reference}>{target}",
        "condition": f"moves-{direction}",
        "category": "motion",
        "reference_clip_id": reference,
        "target_clip_id": target,
        "split": split,
        "score": 100.0,
        "provider": "truth",
        "generation": "g1",
    }
