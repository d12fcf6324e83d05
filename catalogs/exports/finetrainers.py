"""The folder that finetrainers trains from. Exercised by `pytest tests/catalogs/test_exports.py`."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from catalogs.exports.chosen import ChosenClip, Place, Written, write_table
from catalogs.store import Catalog


@dataclass(frozen=True, kw_only=True)
class Finetrainers:
    """What finetrainers trains from.

    What: `metadata.csv` with the columns `file_name` and `caption`, and the videos under `videos/`. This is the one layout
        that all its versions with a `data_root` in a training configuration read, through Hugging Face's `videofolder`.
    Reads: clips, their captions (role vap, long, source or short, in this order) and their videos.
    Writes: a folder; give it as `data_root`.
    Default: every captioned clip, of every split; `--where "split = 'train'"` for training.
    Cost: a hard link per video; about real time for a clip that is a part of its file.
    Fails when: a part of a longer file cannot be decoded any more.
    Source: finetrainers, `initialize_dataset` and `VideoFolderDataset` in finetrainers/data/dataset.py.
    """

    name: ClassVar[str] = "finetrainers"
    paired: ClassVar[bool] = False

    def write(self, catalog: Catalog, clips: Mapping[str, ChosenClip], folder: str, place: Place) -> Written:
        """Videos and metadata.csv."""
        return write_table(clips, folder, place, ("file_name", "caption"))
