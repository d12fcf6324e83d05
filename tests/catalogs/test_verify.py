"""Every promise, broken on purpose, is found and told with place and remedy; a whole catalog has no findings."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalog_samples import caption, clip, latent, score, text_row, video

from catalogs.store import Catalog
from catalogs.tensors import pack
from catalogs.verify import CHECKS, verify
from vapdata.errors import CallError


def _found(catalog: Catalog, check: str) -> str:
    found = verify(catalog, [check])
    assert found, f"{check} found nothing"
    assert all(finding.remedy and finding.where for finding in found)
    return "\n".join(map(str, found))


def _latents(catalog: Catalog, data: bytes, **changes: object) -> None:
    file = catalog.write_tensors("vae-9x96x160", "d-000009", catalog.next_part("vae-9x96x160", "d-000009"), [("d/a", data)])
    digest = catalog.read("latents").column("settings_sha256")[0].as_py()
    catalog.append({"latents": [latent(catalog, "a", file, 0, digest, **changes)]})


@pytest.mark.slow
def test_a_whole_catalog_has_no_findings(filled: Catalog) -> None:
    assert verify(filled) == []
    filled.append({"captions": [caption("b", "a blue square")], "scores": [score("b", "motion", 7.0)]})
    filled.merge()
    assert verify(filled) == []


def test_a_key_that_stands_twice_in_a_file(filled: Catalog) -> None:
    path = filled.files.address("clips/" + filled.table_files("clips")[0])
    rows = pq.read_table(path)
    pq.write_table(pa.concat_tables([rows, rows.slice(0, 1)]), path)
    assert "clips (clip_id d/a): a key is not unique: got 2 rows, wanted 1" in _found(filled, "keys")


def test_a_row_that_names_nothing(filled: Catalog) -> None:
    filled.append({"clips": [clip("orphan", video_id="d/none")], "scores": [score("nobody", "motion", 1.0)]})
    text = _found(filled, "references")
    assert "clips (video_id d/none): video_id names nothing: got no such row in videos" in text
    assert "scores (clip_id d/nobody)" in text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"latent_frames": 2}, "2 latent frames in shape .*wanted 3 latent frames for 9 video frames"),
        ({"pixel_frames": 10}, "wanted another number of video frames than 10"),
        ({"latent_frames": 3, "shape": [4, 5, 2, 2]}, "frame law"),
    ],
)
def test_a_latent_that_breaks_its_frame_law(filled: Catalog, changes: dict[str, object], words: str) -> None:
    _latents(filled, pack(np.zeros((4, 3, 2, 2), np.float32), "bf16"), **changes)
    assert re.search(words, _found(filled, "shapes"))


def test_lawful_latents_of_other_kinds_are_left_in_peace(filled: Catalog) -> None:
    _latents(filled, pack(np.zeros((4, 1, 2, 2), np.float32), "bf16"), shape=[4, 1, 2, 2], pixel_frames=1, latent_frames=1, kind="first")
    assert verify(filled, ["shapes"]) == []
    _latents(filled, pack(np.zeros((4, 2, 2, 2), np.float32), "bf16"), shape=[4, 2, 2, 2], pixel_frames=8, latent_frames=2)
    assert verify(filled, ["shapes"]) == []


def test_a_tensor_with_too_few_bytes(filled: Catalog) -> None:
    _latents(filled, bytes(10))
    assert "10 bytes, wanted 96 bytes for bf16 of shape (4, 3, 2, 2)" in _found(filled, "tensor_bytes")


def test_a_tensor_with_nan(filled: Catalog) -> None:
    numbers = np.zeros((4, 3, 2, 2), np.float32)
    numbers[0, 0, 0, 0] = np.nan
    _latents(filled, pack(numbers, "bf16"))
    assert "1 NaN or infinite numbers" in _found(filled, "tensor_bytes")


def test_a_flipped_bit(filled: Catalog) -> None:
    path = Path(filled.files.address("tensors/t5/d-000000.0.parquet"))
    data = path.read_bytes()
    ones = np.ones((4, 2), np.float32).tobytes()
    path.write_bytes(data.replace(ones, ones[:-1] + b"\x3e", 1))
    text = _found(filled, "tensor_bytes")
    assert "wanted bytes that fit their checksum" in text
    assert "row group 0 (clip d/a)" in text


def test_a_tensor_file_that_is_gone_or_holds_another_clip(filled: Catalog) -> None:
    Path(filled.files.address("tensors/t5/d-000000.0.parquet")).unlink()
    assert "wanted a readable file" in _found(filled, "tensor_bytes")
    filled.write_tensors("t5", "d-000000", 0, [("d/b", b"x"), ("d/a", b"x")])
    assert "clip d/b there, wanted this clip alone" in _found(filled, "tensor_bytes")


def test_a_number_that_is_none(filled: Catalog) -> None:
    filled.append({"scores": [score("a", "motion", float("nan"))]})
    assert "scores: column value is not finite: got 1 rows" in _found(filled, "numbers")


def test_rows_made_with_other_settings(filled: Catalog) -> None:
    Path(filled.files.address("tensors/t5/settings.json")).unlink()
    assert "tensors/t5/settings.json: settings differ" in _found(filled, "products")


def test_a_stale_row_is_named(filled: Catalog) -> None:
    filled.append({"captions": [caption("a", "another text")]})
    assert "texts (t5, clip d/a): the caption has changed since" in _found(filled, "stale")
    filled.append({"captions": [caption("b", "x", text_sha256="0")]})
    assert "captions (d/b, source, source): a caption's hash is not its text's" in _found(filled, "stale")


def test_a_torn_split_group(filled: Catalog) -> None:
    filled.append({"videos": [video("c", split_group="a", split="test")], "clips": [clip("b", split="validation")]})
    text = _found(filled, "splits")
    assert "videos (dataset d, split_group a): a split group is torn: got test, train" in text
    assert "clips (d/b): a clip left its video's split: got validation, wanted train" in text


def test_counts_that_do_not_add_up(filled: Catalog) -> None:
    filled.append({"runs": [{"run_id": "r", "command": "x", "counts": '{"scan": {"planned": 5, "kept": 2, "rejected": 1, "failed": 1}}'}]})
    assert "runs (r, scan): a stage's counts do not add up: got 2 kept + 1 rejected + 1 failed, wanted 5 planned" in _found(filled, "counts")


def test_stray_and_missing_files(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "c", create=True)
    with catalog.lock("x"):
        catalog.append({"videos": [video("a")], "clips": [clip("a")]})
    assert verify(catalog) == []
    (tmp_path / "c/clips/.half.tmp").touch()
    catalog.write_tensors("p", "s", 0, [("x", b"1")])
    (tmp_path / "c/clips/00000001.parquet").rename(tmp_path / "c/clips/00000009.parquet")
    text = _found(catalog, "strays")
    for path in ("clips/.half.tmp", "tensors/p/s.0.parquet", "clips/00000009.parquet"):
        assert f"{path}: a file that belongs to nothing" in text
    assert "clips/00000001.parquet: a committed file is gone" in text


def test_a_damaged_table_file_is_told_instead_of_a_traceback(filled: Catalog) -> None:
    path = Path(filled.files.address("clips/" + filled.table_files("clips")[0]))
    path.write_bytes(path.read_bytes()[:-10])
    found = verify(filled)
    assert [finding.check for finding in found] == ["files"]
    assert "clips/00000001.parquet: a table's file is damaged" in str(found[0])


def test_an_unknown_check_is_refused(filled: Catalog) -> None:
    with pytest.raises(CallError, match="no check is called speed. Checks: keys, "):
        verify(filled, ["speed"])
    assert next(iter(CHECKS)) == "keys"


@pytest.mark.slow
def test_text_rows_without_a_clip_are_lawful(filled: Catalog) -> None:
    file = filled.write_tensors("t5", "constants", 0, [(None, pack(np.ones((4, 2), np.float32), "f32"))])
    digest = filled.read("texts").column("settings_sha256")[0].as_py()
    empty = {"captioner": "constant", "role": "empty", "text_sha256": caption("a", "")["text_sha256"]}
    filled.append({"texts": [text_row(None, file, 0, digest, empty)]})
    assert verify(filled) == []
