"""A run's copy in an object store: what is left of it when a machine is lost with its disk.

    python -m train.vap --catalog C --out RUN --mirror s3://bucket/run
    python -m train.vap --resume --out RUN --mirror s3://bucket/run        # on another machine: RUN is fetched first

The run lives in its folder as ever, which all its processes share; each checkpoint is copied once it is complete, its stamp last, so
that half a copy is never taken for one. Small files (settings, index, metrics) go with it, the export at the end. A copy that
fails is said and made up for by the next one; a run whose last copy fails ends with a sentence. Logs and samples stay where they are.
Exercised by `pytest tests/train/test_mirror.py`.
"""

import logging
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

import tenacity

from catalogs.files import files_at
from train.checkpoint import FOLDER, STAMP, complete, newest
from train.trained_run import CONFIG, EXPORT
from vapdata.errors import CallError, RunError

log = logging.getLogger("train")

ATTEMPTS = 4
LEFT_OUT = (FOLDER, EXPORT, "logs", "samples")
"""Folders of a run that do not go with every checkpoint."""


class Mirror:
    """One place for one run's copy."""

    def __init__(self, address: str) -> None:
        """Touches nothing. Raises CallError for an address that is not understood, or that has a key in it."""
        if "@" in urlsplit(address).netloc:
            raise CallError("--mirror: the address has a key in it, which would stand in config.json. Put it into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        self._files, self.shown = files_at(address)
        self._wait = tenacity.wait_exponential(multiplier=1.0, max=30.0)
        self._done = ""

    def begin(self, folder: Path) -> None:
        """Copies the small files of a new run, so that a place that cannot be written to is known before the first step.

        Raises CallError when another run's copy is there, RunError when nothing can be written.
        """
        if self._files.exists(CONFIG):
            raise CallError(f"--mirror {self.shown} holds a run already. Go on with it: --resume --mirror {self.shown}; or give another --mirror")
        try:
            self._small(folder)
        except (RunError, OSError) as error:
            raise RunError(f"--mirror {self.shown}: cannot be written to ({error}). Look at the address and at the keys in the environment") from error

    def keep(self, checkpoint: Path) -> None:
        """Copies a complete checkpoint and what goes with it; older ones go as they went on disk. A failure is logged, not raised."""
        try:
            self._asking(self._checkpoint, checkpoint)
            self._done = checkpoint.name
        except (RunError, OSError) as error:
            log.warning("%s is not in %s: %s. The run goes on; the next checkpoint is tried again", checkpoint.name, self.shown, error)

    def finish(self, folder: Path) -> None:
        """Copies what the last steps left: metrics, the newest checkpoint where it is not there yet, the export. Raises RunError when it cannot."""
        last = newest(folder)
        try:
            if last is not None and last.name != self._done:
                self._asking(self._checkpoint, last)
            self._asking(self._put, folder, _below(folder / EXPORT))
            self._asking(self._small, folder)
        except (RunError, OSError) as error:
            raise RunError(f"the run is whole in {folder}, but not in {self.shown} ({error}). Copy the folder by hand, or type the same command with --resume") from error

    def fetch(self, folder: Path) -> None:
        """Brings the copy into a folder that holds no run; the settings last, so that half a fetch is done again. Raises CallError when there is none."""
        if (folder / CONFIG).exists():
            return
        names = self._files.walk("")
        if CONFIG not in names:
            raise CallError(f"--resume: there is no run in {folder}, and none in {self.shown}. Give the --out or the --mirror of the run to go on with")
        stamped = [os.path.dirname(name) for name in names if name.startswith(f"{FOLDER}/") and name.endswith(f"/{STAMP}")]
        wanted = max(stamped, key=lambda name: (len(name), name), default=None)
        taken = [name for name in names if not name.startswith(f"{FOLDER}/") or (wanted and name.startswith(f"{wanted}/"))]
        for name in sorted(taken, key=lambda name: (name == CONFIG, name.endswith(f"/{STAMP}"), name)):
            self._asking(self._get, name, folder / name)
        log.info("fetched %s from %s", wanted or "a run without a checkpoint", self.shown)

    def _checkpoint(self, checkpoint: Path) -> None:
        folder = checkpoint.parent.parent
        self._put(folder, sorted(_below(checkpoint), key=lambda path: path.name == STAMP))
        self._small(folder)
        there = {name.split("/")[1] for name in self._files.walk(FOLDER)}
        for name in there - {path.name for _, path in complete(checkpoint.parent)}:
            self._files.remove(f"{FOLDER}/{name}/{STAMP}")
            self._files.remove_folder(f"{FOLDER}/{name}")

    def _small(self, folder: Path) -> None:
        """Everything that lies in the run's folder itself and in its index; the settings last, for they say that a run is there."""
        paths = [path for path in _below(folder) if path.relative_to(folder).parts[0] not in LEFT_OUT]
        self._put(folder, sorted(paths, key=lambda path: path.name == CONFIG))

    def _put(self, folder: Path, paths: Iterable[Path]) -> None:
        for path in paths:
            self._files.put(path.relative_to(folder).as_posix(), path)

    def _get(self, name: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_name(f".{path.name}.partial")
        with self._files.open(name) as file, partial.open("wb") as out:
            shutil.copyfileobj(file, out, 8 << 20)
            out.flush()
            os.fsync(out.fileno())
        os.replace(partial, path)

    def _asking(self, call: object, *given: object) -> None:
        """The call, up to ATTEMPTS times."""
        tenacity.Retrying(
            retry=tenacity.retry_if_exception_type((RunError, OSError)), wait=self._wait, stop=tenacity.stop_after_attempt(ATTEMPTS), reraise=True
        )(call, *given)  # type: ignore[arg-type]


def _below(folder: Path) -> list[Path]:
    """Files of a folder and those below it, without what is still being written."""
    found = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]
