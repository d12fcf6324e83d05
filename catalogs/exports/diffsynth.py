"""DiffSynth-Studio's metadata.csv. Exercised by `pytest tests/catalogs/test_exports.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from catalogs.exports.chosen import ChosenClip, Place, Written, write_table
from catalogs.store import Catalog


@dataclass(frozen=True, kw_only=True)
class DiffSynth:
    """What DiffSynth-Studio trains from.

    What: `metadata.csv` with the columns `video` and `prompt`, and the videos under `videos/`.
    Reads: clips, their captions (role vap, long, source or short, in this order) and their videos.
    Writes: a folder; give it as `--dataset_base_path`, and its metadata.csv as `--dataset_metadata_path`.
    Default: every captioned clip, of every split; `--where "split = 'train'"` for training.
    Cost: a hard link per video; about real time for a clip that is a part of its file.
    Fails when: a part of a longer file cannot be decoded any more.
    Source: DiffSynth-Studio, the example data set of its video training.
    """

    name: ClassVar[str] = "diffsynth"
    paired: ClassVar[bool] = False

    def write(self, catalog: Catalog, clips: Mapping[str, ChosenClip], folder: str, place: Place) -> Written:
        """Videos and metadata.csv."""
        return write_table(clips, folder, place, ("video", "prompt"))
