"""Epic-Kitchens-100: a tree of two participants, rendered from real clips with each frame's number drawn in."""

import csv
import math
import shutil
from fractions import Fraction

import pytest
from PIL import Image

from vapdata.clip import BadRow, Sampling, Video, path_under
from vapdata.decoder import Decoder
from vapdata.errors import CallError
from vapdata.scan import SCAN_FIT, scan
from vapdata.sources.epic import Epic
from vapdata.video import Fit, frames, write

HEIGHT, WIDTH, BLOCK, BITS = 64, 128, 12, 10
FRAMES = 160
NTSC = Fraction(60000, 1001)
TRUE_RATE = {"P01_11": NTSC, "P01_12": Fraction(50), "P02_101": Fraction(50), "P02_102": NTSC}
FRAME_RATE = {"P01_11": Fraction(60), "P01_12": Fraction(50), "P02_101": Fraction(50), "P02_102": NTSC}
"""Rate that a video's frames were taken out at, and its annotation's frame numbers made for."""

HEADER = (
    "narration_id,participant_id,video_id,narration_timestamp,start_timestamp,stop_timestamp,start_frame,stop_frame,"
    "narration,verb,verb_class,noun,noun_class,all_nouns,all_noun_classes"
)
SPANS = {"P01_12": [(0.5, 1.24), (1.0, 2.1)], "P02_101": [(0.31, 0.9), (0.9, 3.19)], "P02_102": [(0.02, 1.17), (1.5, 2.6)]}


def _stamped(picture, number):
    """`picture` with `number` along its top, as black and white blocks."""
    out = picture.copy()
    for bit in range(BITS):
        out[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return out


def _read(picture):
    """The number that `_stamped` drew, at any size."""
    tall, wide = picture.shape[0] / HEIGHT, picture.shape[1] / WIDTH
    points = [((bit + 0.5) * BLOCK * wide, 0.5 * BLOCK * tall) for bit in range(BITS)]
    return sum(1 << bit for bit, (x, y) in enumerate(points) if picture[int(y), int(x)].mean() > 127)


@pytest.fixture(scope="module")
def root(tmp_path_factory, real_clips):
    """P01_11: frame folder and 59.94 fps video; P01_12: 50 fps frames; P02_101: 50 fps video; P02_102: 59.94 fps video.

    Frame and video pictures are numbered from 1. P01_11's rows are the first of the real table.
    """
    root = tmp_path_factory.mktemp("epic")
    source = real_clips / "clips" / "br_laundry.mp4"
    pictures = [frame.image for frame in frames(source, Fit(height=HEIGHT, width=WIDTH))]
    pictures = [_stamped(pictures[number % len(pictures)], number) for number in range(1, FRAMES + 1)]
    for name in ("P01_11", "P01_12"):
        folder = root / "P01" / "rgb_frames" / name
        folder.mkdir(parents=True)
        for number, picture in enumerate(pictures, 1):
            Image.fromarray(picture).save(folder / f"frame_{number:010d}.jpg")
        (root / "P01" / "flow_frames" / name / "u").mkdir(parents=True)
    for name in ("P01_11", "P02_101", "P02_102"):
        folder = root / name[:3] / "videos"
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / f"{name}.MP4", pictures, float(TRUE_RATE[name]), codec="libx264")
    _write_tables(root / "annotations", real_clips / "metadata")
    return root


def _write_tables(folder, metadata):
    folder.mkdir()
    with open(metadata / "epic100_validation_first200.csv", newline="") as lines:
        real = [*csv.DictReader(lines)]
    columns = list(real[0])
    assert ",".join(columns) == HEADER
    train = [_row(columns, f"{name}_{place}", name, *span) for name in ("P02_101", "P02_102") for place, span in enumerate(SPANS[name])]
    validation = real[:2] + [_row(columns, f"P01_12_{place}", "P01_12", *span) for place, span in enumerate(SPANS["P01_12"])]
    for split, rows in (("train", train), ("validation", validation)):
        with open(folder / f"EPIC_100_{split}.csv", "w", newline="") as file:
            writer = csv.DictWriter(file, columns)
            writer.writeheader()
            writer.writerows(rows)


def _row(columns, narration, video, start_s, stop_s):
    """A row as the real table has them: frame numbers are time x rate, rounded down."""
    rate = FRAME_RATE[video]
    row = dict.fromkeys(columns, "") | {"narration_id": narration, "participant_id": video[:3], "video_id": video}
    row |= {"start_timestamp": f"00:00:{start_s:05.2f}", "stop_timestamp": f"00:00:{stop_s:05.2f}"}
    row |= {"start_frame": str(math.floor(Fraction(str(start_s)) * rate)), "stop_frame": str(math.floor(Fraction(str(stop_s)) * rate))}
    row |= {"narration": "open the door", "verb": "open", "verb_class": "3", "noun": "door", "noun_class": "8"}
    return row | {"all_nouns": "['door', 'door:fridge']", "all_noun_classes": "[8, 8]"}


def _listed(source):
    items = list(source.list())
    return {item.name: item for item in items if isinstance(item, Video)}, [item for item in items if isinstance(item, BadRow)]


def _shown(root, video):
    with Decoder() as decoder:
        path = path_under(root, video.uri)
        shown = list(decoder.frames(path, SCAN_FIT, video.start_s, video.end_s, folder_fps=video.folder_fps))
        return [_read(frame.image) for frame in shown], shown, decoder.probe(path, folder_fps=video.folder_fps)


def _by_time(start_s, stop_s, rate):
    """Numbers from 1 of the frames shown at k / rate in [start, stop), in exact arithmetic."""
    return [k + 1 for k in range(FRAMES) if Fraction(str(start_s)) <= k / rate < Fraction(str(stop_s))]


def test_every_narration_is_a_video_of_its_own(root):
    videos, bad = _listed(Epic(root=str(root)))
    assert bad == []
    assert {name: (video.split, video.split_group, video.uri) for name, video in videos.items()} == {
        "P02_101_0": ("train", "P02_101", "P02/videos/P02_101.MP4"),
        "P02_101_1": ("train", "P02_101", "P02/videos/P02_101.MP4"),
        "P02_102_0": ("train", "P02_102", "P02/videos/P02_102.MP4"),
        "P02_102_1": ("train", "P02_102", "P02/videos/P02_102.MP4"),
        "P01_11_0": ("validation", "P01_11", "P01/videos/P01_11.MP4"),
        "P01_11_1": ("validation", "P01_11", "P01/videos/P01_11.MP4"),
        "P01_12_0": ("validation", "P01_12", "P01/rgb_frames/P01_12"),
        "P01_12_1": ("validation", "P01_12", "P01/rgb_frames/P01_12"),
    }


def test_what_a_row_says(root):
    videos, _ = _listed(Epic(root=str(root)))
    real, made = videos["P01_11_1"], videos["P02_101_0"]
    assert (real.video_id, real.caption, real.label, real.license) == ("epic/P01_11_1", "put down plate", "put-down plate", "CC BY-NC 4.0")
    assert (real.start_s, real.end_s, real.seconds) == (1.56, 2.45, pytest.approx(0.89))
    assert real.scores == {
        "epic_participant": "P01", "epic_verb": "put-down", "epic_noun": "plate", "epic_verb_class": 1.0, "epic_noun_class": 2.0,
    }
    assert made.scores["epic_all_noun"] == ("door", "door:fridge")


@pytest.mark.parametrize(("name", "first", "last", "rate"), [("P01_11_0", 1, 113, 60.0), ("P01_11_1", 93, 147, 60.0), ("P01_12_0", 25, 62, 50.0), ("P01_12_1", 50, 105, 50.0)])
@pytest.mark.slow
def test_a_span_of_frames_is_exact(root, name, first, last, rate):
    video = _listed(Epic(root=str(root), prefer="frames"))[0][name]
    numbers, shown, probed = _shown(root, video)
    assert numbers == list(range(first, last + 1))
    assert video.folder_fps == rate
    [clip] = scan(shown, probed, video).clips
    assert (clip.whole, clip.frames, clip.clip_id, clip.codec) == (True, last - first + 1, f"epic/{name}", "mjpeg")
    assert (clip.start_s, clip.end_s) == (pytest.approx((first - 1) / rate), pytest.approx(last / rate))


@pytest.mark.parametrize("name", ["P01_11_0", "P01_11_1", "P02_101_0", "P02_101_1", "P02_102_0", "P02_102_1"])
@pytest.mark.slow
def test_a_span_of_a_video_is_exact_at_its_own_rate(root, name):
    video = _listed(Epic(root=str(root)))[0][name]
    numbers, shown, probed = _shown(root, video)
    assert numbers == _by_time(round(video.start_s, 2), round(video.end_s, 2), TRUE_RATE[video.split_group])
    [clip] = scan(shown, probed, video).clips
    assert (clip.frames, clip.clip_id, clip.codec) == (len(numbers), f"epic/{name}", "h264")
    assert clip.fps == pytest.approx(float(TRUE_RATE[video.split_group]), abs=0.01)


def test_a_product_samples_the_span_alone(root):
    video = _listed(Epic(root=str(root), prefer="frames"))[0]["P01_12_0"]
    grid = Sampling(frames=5, height=HEIGHT, width=WIDTH, fps=12.5)
    with Decoder() as decoder:
        images = decoder.sample(path_under(root, video.uri), video.start_s, video.end_s, grid, folder_fps=video.folder_fps)
    assert [_read(image) for image in images] == [25, 29, 33, 37, 41]


def test_frames_of_the_spans_alone_give_the_same_span(root, tmp_path):
    folder = tmp_path / "P01" / "rgb_frames" / "P01_11"
    folder.mkdir(parents=True)
    for number in range(93, 148):
        shutil.copy(root / "P01" / "rgb_frames" / "P01_11" / f"frame_{number:010d}.jpg", folder)
    shutil.copy(root / "annotations" / "EPIC_100_validation.csv", tmp_path)
    video = _listed(Epic(root=str(tmp_path)))[0]["P01_11_1"]
    assert _shown(tmp_path, video)[0] == list(range(93, 148))


def _table(tmp_path, rows, name="EPIC_100_train.csv"):
    (tmp_path / name).write_text("\n".join([HEADER, *rows]) + "\n")
    return Epic(root=str(tmp_path))


def test_a_row_without_footage_is_listed_where_the_release_puts_it(tmp_path):
    source = _table(tmp_path, ["P05_01_7,P05,P05_01,,00:00:01.00,00:00:02.00,60,120,take cup,take,0,cup,13,['cup'],[13]"])
    assert _listed(source)[0]["P05_01_7"].uri == "P05/videos/P05_01.MP4"
    assert source.present() == {}


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ("P05_01_7,P05,P05_01,,00:00:02.00,00:00:01.00,60,120,,,,,,,", "wanted hh:mm:ss.ss"),
        ("P05_01_7,P05,P05_01,,soon,00:00:01.00,60,120,,,,,,,", "got 'soon'"),
        (",P05,P05_01,,00:00:01.00,00:00:02.00,60,120,,,,,,,", "narration_id is empty"),
        ("P05_01_7,P05", "2 fields, wanted 15"),
    ],
)
def test_malformed_rows_are_said_with_file_and_line(tmp_path, row, said):
    good = "P05_01_8,P05,P05_01,,00:00:01.00,00:00:02.00,60,120,take cup,take,0,cup,13,\"['cup', 'c'] + 1\",[13]"
    videos, [bad] = _listed(_table(tmp_path, [good, row]))
    assert (list(videos), bad.where) == (["P05_01_8"], "EPIC_100_train.csv:3")
    assert said in bad.message


def test_frame_numbers_that_make_no_sense_are_said(tmp_path):
    (tmp_path / "P05_01").mkdir()
    (tmp_path / "P05_01" / "frame_0000000001.jpg").write_bytes(b"x")
    [bad] = _listed(_table(tmp_path, ["P05_01_7,P05,P05_01,,00:00:01.00,00:00:02.00,0,x,,,,,,,"]))[1]
    assert "columns start_frame and stop_frame: got '0' to 'x'" in bad.message
    assert bad.video_id == "epic/P05_01_7"


@pytest.mark.parametrize(("stated", "rate"), [("59.9400599400599", 60.0), ("50.0", 60.0), ("", 60.0)])
def test_the_annotations_own_numbers_decide_the_rate_of_frames(tmp_path, stated, rate):
    (tmp_path / "P01_11").mkdir()
    (tmp_path / "P01_11" / "frame_0000000001.jpg").write_bytes(b"x")
    (tmp_path / "EPIC_100_video_info.csv").write_text(f"video_id,duration,fps,resolution\nP01_11,1000,{stated},1920x1080\n")
    source = _table(tmp_path, ["P01_11_1,P01,P01_11,,00:05:27.28,00:05:31.97,19636,19918,wash cloth,wash,2,cloth,17,['cloth'],[17]"])
    assert _listed(source)[0]["P01_11_1"].folder_fps == rate


def test_the_stated_rate_decides_where_the_numbers_fit_several(tmp_path):
    (tmp_path / "P01_11").mkdir()
    (tmp_path / "P01_11" / "frame_0000000001.jpg").write_bytes(b"x")
    (tmp_path / "EPIC_100_video_info.csv").write_text("video_id,duration,fps,resolution\nP01_11,1000,59.9400599400599,1920x1080\n")
    source = _table(tmp_path, ["P01_11_0,P01,P01_11,,00:00:00.00,00:00:01.89,1,113,take plate,take,0,plate,2,['plate'],[2]"])
    assert _listed(source)[0]["P01_11_0"].folder_fps == pytest.approx(59.94, abs=0.01)


def test_tables_of_other_tasks_are_passed_over(tmp_path):
    _table(tmp_path, ["P05_01_7,P05,P05_01,,00:00:01.00,00:00:02.00,60,120,take cup,take,0,cup,13,['cup'],[13]"])
    source = _table(tmp_path, ["P05_01_9,P05,P05_01,,00:00:01.00,00:00:02.00,60,120,,,,,,,"], name="EPIC_100_retrieval_train.csv")
    assert list(_listed(source)[0]) == ["P05_01_7"]


def test_a_table_without_its_columns_is_one_bad_row(tmp_path):
    _table(tmp_path, ["P05_01_7,P05,P05_01,,00:00:01.00,00:00:02.00,60,120,,,,,,,"])
    (tmp_path / "EPIC_100_test_timestamps.csv").write_text("narration_id,video_id\na,b\n")
    videos, [bad] = _listed(Epic(root=str(tmp_path)))
    assert list(videos) == ["P05_01_7"]
    assert "EPIC_100_test_timestamps.csv:1: no column participant_id" in bad.message


def test_the_real_rows_are_all_listed(tmp_path, real_clips):
    (tmp_path / "EPIC_100_validation.csv").write_bytes((real_clips / "metadata" / "epic100_validation_first200.csv").read_bytes())
    (tmp_path / "EPIC_100_video_info.csv").write_bytes((real_clips / "metadata" / "epic100_video_info_head.csv").read_bytes())
    videos, bad = _listed(Epic(root=str(tmp_path)))
    assert (len(videos), bad) == (200, [])
    assert {video.split for video in videos.values()} == {"validation"}


def test_a_root_without_tables_says_what_is_wanted(tmp_path):
    with pytest.raises(CallError, match=r"EPIC_100_train\.csv"):
        list(Epic(root=str(tmp_path)).list())
