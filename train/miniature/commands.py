"""Commands of this project, run in a process of their own with one thread, as somebody would type them.

Exercised by `pytest tests/train/miniature/test_make.py`.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from vapdata.errors import RunError

log = logging.getLogger("train")

SINGLE = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def run(words: Sequence[str], folder: Path) -> None:
    """Runs the interpreter with these words; what it says goes to log.txt in `folder`. Raises RunError that shows its end when it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / "log.txt"
    log.info("python %s > %s", " ".join(words), out)
    with out.open("a") as file:
        ended = subprocess.run([sys.executable, *words], stdout=file, stderr=subprocess.STDOUT, env={**os.environ, **SINGLE})
    if ended.returncode:
        raise RunError(f"python {' '.join(words)} ended with status {ended.returncode}. The end of {out}:\n{out.read_text()[-1500:]}")
