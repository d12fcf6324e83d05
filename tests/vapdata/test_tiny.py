"""The tiny models: same bytes everywhere, made once, real classes behind the real loading path."""

import hashlib
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from vapdata import tiny, tiny_draw
from vapdata.errors import RunError

MAKE = "from vapdata import tiny; print(tiny.folder('tiny-cogvideox'))"


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every tensor file."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*.safetensors"))
    }


@pytest.mark.slow
def test_two_makers_at_once_leave_one_whole_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAPDATA_CACHE", str(tmp_path / "cache"))
    with ThreadPoolExecutor(2) as pool:
        runs = list(pool.map(lambda _: subprocess.run([sys.executable, "-c", MAKE], capture_output=True, text=True), range(2)))
    assert [run.returncode for run in runs] == [0, 0], runs
    made = tiny.folder("tiny-cogvideox")
    assert [path.name for path in (tmp_path / "cache").iterdir()] == [made.name]
    assert set(digests(made)) == {
        "clip/open_clip_model.safetensors",
        "text_encoder/model.safetensors",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
    }
    monkeypatch.setenv("VAPDATA_CACHE", str(tmp_path / "again"))
    assert digests(tiny.folder("tiny-cogvideox")) == digests(made)


RANK = """
import sys
import torch.distributed
from vapdata import tiny
rank, meeting = int(sys.argv[1]), sys.argv[2]
torch.distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=2)
if rank == 1:
    tiny.folder("tiny-hunyuan")
torch.distributed.barrier()
"""


@pytest.mark.slow
def test_a_rank_that_is_not_the_first_leaves_a_whole_folder_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # transformers' save_pretrained writes on rank 0 alone, and says nothing on the others.
    monkeypatch.setenv("VAPDATA_CACHE", str(tmp_path / "cache"))
    ranks = [subprocess.Popen([sys.executable, "-c", RANK, str(rank), str(tmp_path / "meeting")]) for rank in range(2)]
    assert [rank.wait() for rank in ranks] == [0, 0]
    (made,) = (tmp_path / "cache").iterdir()
    parts = {path.parent.name for path in made.rglob("*.safetensors")}
    assert parts == {"text_encoder", "text_encoder_2", "transformer", "vae"}
    before = digests(made)
    for lost in (made / "text_encoder").iterdir():
        lost.unlink()
    assert digests(tiny.folder("tiny-hunyuan")) == before
    assert list((tmp_path / "cache").iterdir()) == [made]


def test_a_parameter_is_drawn_from_its_name_alone() -> None:
    # Fixed numbers: another numpy, torch or machine must give the same weights, or their version would lie.
    drawn = tiny_draw._draw("vae.encoder.conv_in.conv.weight", (2, 3))
    assert drawn.dtype == np.float32
    np.testing.assert_array_equal(drawn, tiny_draw._draw("vae.encoder.conv_in.conv.weight", (2, 3)))
    assert not np.array_equal(drawn, tiny_draw._draw("vae.encoder.conv_out.conv.weight", (2, 3)))
    expected = [0.79248780, -0.30131990, -0.39678949, -0.56430000, 0.05428120, -0.63964409]
    np.testing.assert_allclose(drawn.ravel(), expected, rtol=1e-6)


def test_drawn_weights_have_the_variance_of_their_fan_in() -> None:
    drawn = tiny_draw._draw("a.weight", (400, 100))
    assert abs(drawn.std() - 0.1) < 0.002
    assert abs(drawn.mean()) < 0.002


def test_the_version_is_known_without_building(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VAPDATA_CACHE", str(tmp_path / "cache"))
    assert len(tiny.version("tiny-cogvideox")) == 12
    assert not (tmp_path / "cache").exists()


def test_a_cache_that_cannot_be_written_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("VAPDATA_CACHE", str(tmp_path / "file"))
    with pytest.raises(RunError, match="export VAPDATA_CACHE="):
        tiny.folder("tiny-cogvideox")


def test_the_vocabulary_has_no_doubles_and_starts_as_t5_does() -> None:
    pieces = [piece for piece, _ in tiny_draw.vocabulary()]
    assert pieces[:3] == ["<pad>", "</s>", "<unk>"]
    assert len(set(pieces)) == len(pieces)
