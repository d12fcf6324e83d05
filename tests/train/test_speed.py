"""Peak memory is of this process alone. Rates and shares of waiting: tests/train/test_loop.py."""

import subprocess
import sys

import numpy as np
import pytest

ASK = "import torch; from train.speed import peak_memory_gb; print(peak_memory_gb(torch.device('cpu')))"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere getrusage is what there is")
@pytest.mark.slow
def test_a_small_process_that_a_large_one_started_is_small() -> None:
    held = np.ones(3 * 2**27)  # 3.2 GB, touched
    answer = subprocess.run([sys.executable, "-c", ASK], capture_output=True, text=True, check=True)
    assert 0.05 < float(answer.stdout) < 0.75 * held.nbytes / 1e9
