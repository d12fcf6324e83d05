"""What every test may ask for, and the settings that keep tests quiet and small.

Every annotation of our four packages is checked at each call while tests run: shapes by jaxtyping, types by
beartype. Exercised by `make test`.
"""

import os
from pathlib import Path

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


@pytest.fixture(scope="session")
def repository() -> Path:
    """The checkout that these tests belong to."""
    return REPOSITORY


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
