"""What every test may ask for, and the settings that keep tests quiet and small.

Every annotation of our four packages is checked at each call while tests run: shapes by jaxtyping, types by
beartype. Exercised by `make test`.
"""

import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from jaxtyping import install_import_hook

# Here rather than by jaxtyping's pytest option, which cannot pass beartype a setting. An int where a float is
# annotated is right, as in Python's own typing rules. Must come before any import of ours.
install_import_hook(
    ["catalogs", "pipelines", "train", "vapdata"],
    "beartype.beartype(conf=beartype.BeartypeConf(is_pep484_tower=True))",
)

# Before anything imports torch, cv2 or ray. Subprocesses and Ray workers inherit them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS", "0")

REPOSITORY = Path(__file__).resolve().parent.parent
ON_RAY = (
    *(f"pipelines/test_{name}.py" for name in ("build", "kill", "real_clips", "render", "run")),
    *(f"train/test_{name}.py" for name in ("elastic", "workers")),
)
"""Files whose tests start a Ray, or share the one of their process."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest queue is begun first."""
    items.sort(key=lambda item: not item.path.as_posix().endswith(ON_RAY))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """As `--dist loadfile`, but all that start a Ray in one queue: two of them at once, each with a dozen processes, take more than twice as long."""
    from xdist.scheduler import LoadScopeScheduling

    class Queues(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file = nodeid.partition("::")[0]
            return "on Ray" if file.endswith(ON_RAY) else file

    return Queues(config, log)


@pytest.fixture(scope="module", autouse=True)
def no_open_clip() -> Iterator[None]:
    """A CLIP that a file leaves open would be the next file's, with what it remembers of frames: said of the file that left it."""
    yield
    frames = sys.modules.get("vapdata.filters.clip_frames")
    assert not frames or not frames._open, f"still open: {list(frames._open)}; close what was opened"


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that these tests belong to."""
    return REPOSITORY


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """made_once(name, make): the folder that `make(folder)` has filled, by the first of pytest's processes that asks for it."""
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own

    def once(name: str, make: Callable[[Path], object]) -> Path:
        folder, done = shared / "once" / name, shared / "once" / f"{name}.done"
        folder.parent.mkdir(exist_ok=True)
        with open(f"{folder}.lock", "w") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)  # another process failed at it
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return once


@pytest.fixture(scope="session")
def real_clips() -> Path:
    """Folder of real clips, `clips/`, `broken/` and `openvid/` in it; skips where the machine has none.

    `VAPDATA_REAL_CLIPS` names it; without that it is looked for beside the checkout.
    """
    named = os.environ.get("VAPDATA_REAL_CLIPS")
    folder = Path(named) if named else REPOSITORY.parent / "shared" / "clips"
    if not (folder / "clips").is_dir():
        pytest.skip(f"no real clips in {folder}: set VAPDATA_REAL_CLIPS to the folder that holds clips/ and broken/")
    return folder.resolve()
