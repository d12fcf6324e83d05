"""Folders of numbered pictures: the same calls and answers as for files, in this process and in the decoder's child."""

import os

import numpy as np
import pytest
from PIL import Image

from vapdata.clip import Sampling, Video
from vapdata.decoder import Decoder
from vapdata.errors import NoVideo, TooLarge, Unreadable
from vapdata.scan import SCAN_FIT, scan
from vapdata.video import Fit, FrameFolder, frame_folder, frames, probe, sample, write


def _grey(level, height=24, width=32):
    return np.full((height, width, 3), level, np.uint8)


@pytest.fixture
def folder(tmp_path):
    """Twelve PNGs, `im_0.png` to `im_11.png`, unpadded; picture n has grey level 20 n."""
    path = tmp_path / "images0"
    path.mkdir()
    for number in range(12):
        Image.fromarray(_grey(20 * number)).save(path / f"im_{number}.png")
    return path


def _levels(images):
    return [round(float(image.mean()) / 20) for image in images]


def test_names_are_put_in_order_as_numbers(folder):
    shown = list(frames(folder, folder_fps=5.0))
    assert _levels(frame.image for frame in shown) == list(range(12))
    assert [frame.time_s for frame in shown] == [number / 5 for number in range(12)]


def test_a_folder_is_probed_like_a_file(folder):
    said = probe(folder, folder_fps=5.0)
    assert (said.codec, said.width, said.height, said.fps, said.frames, said.rotation) == ("png", 32, 24, 5.0, 12, 0)
    assert said.duration_s == pytest.approx(2.4)


def test_the_listing_says_first_last_count_and_bytes(folder):
    (folder / "im_5.png").unlink()
    size = sum(os.path.getsize(path) for path in folder.iterdir())
    assert frame_folder(folder) == FrameFolder(first=0, last=11, count=11, bytes=size)
    assert frame_folder(folder.parent) is None
    assert frame_folder(folder / "not-there") is None


@pytest.mark.parametrize(("start", "end", "numbers"), [(0.2, None, range(1, 12)), (0.6, 1.2, [3, 4, 5]), (0.5, 0.9, [3, 4]), (2.4, None, [])])
def test_a_span_gives_the_frames_whose_time_lies_in_it(folder, start, end, numbers):
    assert _levels(frame.image for frame in frames(folder, Fit(), start, end, folder_fps=5.0)) == list(numbers)


@pytest.mark.parametrize("fps", [5.0, 12.0, 50.0, 60000 / 1001, 60.0])
def test_spans_by_frame_number_are_exact_at_every_rate(folder, fps):
    for first in range(12):
        for last in range(first, 12):
            shown = _levels(frame.image for frame in frames(folder, Fit(), first / fps, (last + 1) / fps, folder_fps=fps))
            assert shown == list(range(first, last + 1))


def test_a_missing_number_leaves_the_picture_before_it_on_show(folder):
    (folder / "im_5.png").unlink()
    assert [frame.time_s for frame in frames(folder, folder_fps=5.0)][4:7] == [0.8, 1.2, 1.4]
    grid = Sampling(frames=3, height=24, width=32, fps=5.0)
    assert _levels(sample(folder, 0.8, 1.4, grid, folder_fps=5.0)) == [4, 4, 6]
    assert _levels(sample(folder, 1.0, 2.0, grid, folder_fps=5.0)) == [4, 6, 7]


def test_times_count_from_the_smallest_number(folder):
    for number in range(3):
        (folder / f"im_{number}.png").unlink()
    assert next(frames(folder, folder_fps=5.0)).time_s == 0.0
    assert _levels([next(frames(folder, folder_fps=5.0)).image]) == [3]


def test_sampling_equals_a_lossless_file_of_the_same_pictures(folder, tmp_path):
    film = tmp_path / "film.mkv"
    write(film, (_grey(20 * number) for number in range(12)), 5.0, codec="ffv1")
    for grid in (Sampling(frames=9, height=16, width=16, fps=4.0), Sampling(frames=9, height=48, width=64, fps=9.0, resize="crop")):
        ours, theirs = sample(folder, 0.2, 2.4, grid, folder_fps=5.0), sample(film, 0.2, 2.4, grid)
        assert np.abs(ours.astype(int) - theirs).max() <= 2  # one is RGB, the other went through YUV


def test_jpegs_look_as_pillow_shows_them(real_clips):
    path = next((real_clips / "bridge").glob("**/images0"))
    for number, frame in enumerate(frames(path, folder_fps=5.0)):
        expected = np.asarray(Image.open(path / f"im_{number}.jpg").convert("RGB")).astype(int)
        assert np.abs(frame.image - expected).mean() < 1.5


def test_the_decoding_process_gives_the_same(folder):
    grid = Sampling(frames=5, height=24, width=32, fps=5.0)
    with Decoder() as decoder:
        assert decoder.probe(folder, folder_fps=5.0) == probe(folder, folder_fps=5.0)
        ours, theirs = list(decoder.frames(folder, Fit(), 0.2, folder_fps=5.0)), list(frames(folder, Fit(), 0.2, folder_fps=5.0))
        assert [frame.time_s for frame in ours] == [frame.time_s for frame in theirs]
        assert all((one.image == other.image).all() for one, other in zip(ours, theirs, strict=True))
        assert (decoder.sample(folder, 0.2, 2.4, grid, folder_fps=5.0) == sample(folder, 0.2, 2.4, grid, folder_fps=5.0)).all()


def test_a_scan_sees_one_whole_clip(folder):
    video = Video(video_id="d/a", dataset="d", name="a", uri="images0", split_group="a", start_s=0.2, folder_fps=5.0)
    found = scan(frames(folder, SCAN_FIT, 0.2, folder_fps=5.0), probe(folder, folder_fps=5.0), video)
    [clip] = found.clips
    assert (clip.clip_id, clip.whole, clip.frames, clip.start_s, clip.codec) == ("d/a", True, 11, 0.2, "png")
    assert clip.end_s == pytest.approx(2.4)
    assert clip.fps == pytest.approx(5.0)


@pytest.mark.parametrize(("orientation", "corner"), [(3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_the_exif_turn_is_applied(tmp_path, orientation, corner):
    picture = _grey(0)
    picture[:8, :8] = 255  # the upper left corner of what is stored
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture).save(tmp_path / "1.jpg", exif=exif, quality=95)
    [frame] = frames(tmp_path, folder_fps=1.0)
    assert frame.image[corner].mean() > 200
    assert frame.image.shape == ((24, 32, 3) if orientation == 3 else (32, 24, 3))


@pytest.mark.parametrize(("kept", "why"), [(0, "is no JPEG, PNG, WebP or BMP"), (60, "cannot be read as a picture")])
def test_a_damaged_picture_ends_the_frames_with_its_name(folder, kept, why):
    whole = (folder / "im_4.png").read_bytes()
    (folder / "im_4.png").write_bytes(whole[:kept])
    running = frames(folder, folder_fps=5.0)
    assert _levels(next(running).image for _ in range(4)) == [0, 1, 2, 3]
    with pytest.raises(Unreadable, match=rf"images0/im_4\.png: .*{why}"):
        next(running)


def test_a_jpeg_that_is_cut_off_is_refused(tmp_path):
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8)).save(tmp_path / "7.jpg")
    data = (tmp_path / "7.jpg").read_bytes()
    (tmp_path / "7.jpg").write_bytes(data[:-40])
    with pytest.raises(Unreadable, match=r"7\.jpg: this picture is cut off"):
        probe(tmp_path, folder_fps=1.0)


def test_a_picture_of_too_many_pixels_is_too_large(tmp_path):
    Image.new("L", (9000, 9000)).save(tmp_path / "1.jpg")
    with pytest.raises(TooLarge, match="9000 x 9000"):
        probe(tmp_path, folder_fps=1.0)


def test_a_folder_without_numbered_pictures_holds_no_video(tmp_path):
    (tmp_path / "cover.jpg").write_bytes(b"x")
    (tmp_path / "1.txt").write_bytes(b"x")
    (tmp_path / "2.jpg").mkdir()
    os.symlink("/etc/hostname", tmp_path / "3.jpg")
    with pytest.raises(NoVideo, match="holds no numbered picture"):
        probe(tmp_path, folder_fps=1.0)


def test_a_folder_without_a_rate_is_no_video(folder):
    with pytest.raises(Unreadable):
        probe(folder)


def test_contents_choose_the_decoder_and_the_first_name_of_a_number_counts(tmp_path):
    Image.fromarray(_grey(40)).save(tmp_path / "a.webp", lossless=True)
    os.rename(tmp_path / "a.webp", tmp_path / "frame_0001.jpg")
    Image.fromarray(_grey(200)).save(tmp_path / "frame_1.png")
    Image.fromarray(_grey(80)).save(tmp_path / "frame_10s_0002.bmp")
    assert _levels(frame.image for frame in frames(tmp_path, folder_fps=1.0)) == [2, 4]
