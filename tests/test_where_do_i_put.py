"""The README's "where do I put" table: a source and an encoder are one new file and one line each."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vapdata.sources.synthetic import Synthetic

SOURCE = '''"""Videos that a text file lists, a name a line. Exercised by the test that wrote it."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from vapdata.clip import BadRow, Video, path_under, quote, video_id


@dataclass(frozen=True, kw_only=True)
class Listed:
    """What: the files that `list.txt` names."""

    name: ClassVar[str] = "listed"
    root: str = "data/listed"
    dataset: str = "listed"

    def list(self) -> Iterator[Video | BadRow]:
        """One video a line."""
        for name in open(os.path.join(self.root, "list.txt")).read().splitlines():
            yield Video(video_id=video_id(self.dataset, name), dataset=self.dataset, name=quote(name), uri=quote(name), split_group="all")

    def present(self) -> Mapping[str, int]:
        """Those that are there."""
        uris = [video.uri for video in self.list()]
        return {uri: os.path.getsize(path_under(self.root, uri)) for uri in uris if os.path.exists(path_under(self.root, uri))}

    def scores(self) -> Mapping[str, Literal["value", "label"]]:
        """None."""
        return {}
'''

ENCODER = '''"""The mean colour of a clip. Exercised by the test that wrote it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from vapdata.clip import Sample
from vapdata.step import Cell, Product


@dataclass(frozen=True, kw_only=True)
class MeanColour:
    """What: the mean colour."""

    name: ClassVar[str] = "mean_colour"
    reads: ClassVar[frozenset[str]] = frozenset({"frames"})

    def products(self) -> tuple[Product, ...]:
        """One."""
        return (Product(name="mean-colour", table="features", model_id="none", revision="1", dtype="f32"),)

    def weights(self) -> Sequence[object]:
        """None."""
        return ()

    def open(self, device: str | None = None) -> "MeanColour":
        """Loads nothing."""
        return self

    def encode(self, samples: Sequence[Sample]) -> list[list[Cell]]:
        """One cell each."""
        return [[Cell(product="mean-colour", clip_id=s.clip_id, data=s.frames.mean((0, 1, 2)).astype(np.float32), shape=(3,))] for s in samples]

    def constants(self) -> list[Cell]:
        """None."""
        return []
'''

USE = """
import sys
from catalogs.queries import answer
from catalogs.store import Catalog
from catalogs.verify import verify
from pipelines.prepare import Request, build, in_process
from pipelines.recipes import EncodeStage, Recipe
from vapdata.clip import Sampling
from vapdata.encoders import ENCODERS
from vapdata.registry import load
from vapdata.sources import SOURCES

source = load(SOURCES, "listed", "source")(root=sys.argv[1])
encoder = load(ENCODERS, "mean_colour", "encoder")()
stage = EncodeStage(name="encode", encoders=(encoder,))
made = Recipe(name="x", backbone="none", sampling=Sampling(frames=2, height=16, width=16, fps=8), encode=(stage,))
build(Request(source=source, catalog=sys.argv[2], recipe=made), runner=in_process)
catalog = Catalog.open(sys.argv[2])
assert verify(catalog) == [], verify(catalog)
print(answer(catalog, "select count(*) as n from features where product = 'mean-colour'").to_pylist())
"""


@pytest.mark.slow
def test_a_source_and_an_encoder_are_one_file_and_one_line_each(repository: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    for package in ("catalogs", "pipelines", "train", "vapdata"):
        shutil.copytree(repository / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "vapdata/sources/listed.py").write_text(SOURCE)
    (copy / "vapdata/encoders/mean_colour.py").write_text(ENCODER)
    for folder, line in (("sources", '    "listed": "vapdata.sources.listed:Listed",\n'), ("encoders", '    "mean_colour": "vapdata.encoders.mean_colour:MeanColour",\n')):
        registry = copy / f"vapdata/{folder}/__init__.py"
        text = registry.read_text()
        registry.write_text(text[: text.rindex("}")] + line + text[text.rindex("}") :])
    root = tmp_path / "root"
    found = list(Synthetic(root=str(root), count=2, seconds=1.0).list())
    (root / "list.txt").write_text("\n".join(video.uri for video in found))
    environment = {**os.environ, "PYTHONPATH": str(copy)}
    command = [sys.executable, "-c", USE, str(root), str(tmp_path / "catalog")]
    done = subprocess.run(command, env=environment, cwd=copy, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.strip().removeprefix("[{'n': ").removesuffix("}]")) >= 2
