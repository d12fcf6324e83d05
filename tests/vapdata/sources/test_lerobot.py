"""LeRobot: trees of formats 2.1 and 3.0, rendered from a real clip with each frame's number drawn in."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vapdata.clip import BadRow, Sampling, Video, path_under
from vapdata.decoder import Decoder
from vapdata.errors import CallError
from vapdata.scan import SCAN_FIT, scan
from vapdata.sources.lerobot import TOLERANCE_S, LeRobot
from vapdata.video import Fit, frames, write

HEIGHT, WIDTH, BLOCK, BITS = 48, 96, 10, 8
FPS = 30
LENGTHS = (20, 31, 12)
"""Frames of each episode."""
TASKS = (["pick up the cup"], ["open the drawer", "close it"], [])
TOP, WRIST, DEPTH = "observation.images.top", "observation.images.wrist", "observation.images.depth"
V2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


@pytest.fixture(scope="module")
def pictures(real_clips):
    """As many pictures as all episodes have, with their number along the top as black and white blocks."""
    shown = [frame.image for frame in frames(real_clips / "clips" / "br_laundry.mp4", Fit(height=HEIGHT, width=WIDTH))]
    made = [shown[number % len(shown)].copy() for number in range(sum(LENGTHS))]
    for number, picture in enumerate(made):
        for bit in range(BITS):
            picture[:BLOCK, bit * BLOCK : (bit + 1) * BLOCK] = 255 * (number >> bit & 1)
    return made


def _read(picture):
    """The number drawn into a picture of any size."""
    tall, wide = picture.shape[0] / HEIGHT, picture.shape[1] / WIDTH
    points = [((bit + 0.5) * BLOCK * wide, 0.5 * BLOCK * tall) for bit in range(BITS)]
    return sum(1 << bit for bit, (x, y) in enumerate(points) if picture[int(y), int(x)].mean() > 127)


def _info(root, version, video_path, **changes):
    """`meta/info.json`: two cameras, a depth map, an arm."""
    feature = {"dtype": "video", "shape": [3, HEIGHT, WIDTH], "names": ["channels", "height", "width"]}
    features = {
        TOP: {**feature, "info": {"video.fps": float(FPS), "video.is_depth_map": False}},
        WRIST: {**feature, "info": {"video.fps": float(FPS)}},
        DEPTH: {**feature, "info": {"is_depth_map": True}},
        "action": {"dtype": "float32", "shape": [7], "names": None},
    }
    told = {"codebase_version": version, "robot_type": "so100", "fps": FPS, "chunks_size": 2, "total_episodes": len(LENGTHS)}
    told |= {"splits": {"train": f"0:{len(LENGTHS)}"}, "video_path": video_path, "features": features}
    (root / "meta").mkdir(parents=True, exist_ok=True)
    (root / "meta" / "info.json").write_text(json.dumps({**told, **changes}))


def _starts():
    return [sum(LENGTHS[:episode]) for episode in range(len(LENGTHS))]


@pytest.fixture(scope="module")
def v21(tmp_path_factory, pictures):
    """Format 2.1: a file for each episode and camera, chunks of two episodes, lines of JSON."""
    root = tmp_path_factory.mktemp("v21")
    _info(root, "v2.1", V2)
    rows = [{"episode_index": episode, "tasks": TASKS[episode], "length": length} for episode, length in enumerate(LENGTHS)]
    (root / "meta" / "episodes.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    for episode, (start, length) in enumerate(zip(_starts(), LENGTHS, strict=True)):
        for camera in (TOP, WRIST):
            path = root / V2.format(episode_chunk=episode // 2, video_key=camera, episode_index=episode)
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, pictures[start : start + length], FPS)
    return root


@pytest.fixture(scope="module")
def v30(tmp_path_factory, pictures):
    """Format 3.0: the first two episodes of a camera in one file, the third in the next; two tables of episodes."""
    root = tmp_path_factory.mktemp("v30")
    _info(root, "v3.0", V3, chunks_size=1000)
    _tables(root)
    first = sum(LENGTHS[:2])
    for camera in (TOP, WRIST):
        for number, some in enumerate((pictures[:first], pictures[first:])):
            path = root / V3.format(video_key=camera, chunk_index=0, file_index=number)
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, some, FPS)
    return root


def _tables(root, off_s=0.0, **changes):
    """`meta/episodes`: stated times are `off_s` away from the frames'; `changes` are of the second episode's row."""
    rows = []
    for episode, (start, length) in enumerate(zip(_starts(), LENGTHS, strict=True)):
        from_s = (start - _starts()[2] if episode == 2 else start) / FPS
        row = {"episode_index": episode, "tasks": TASKS[episode], "length": length, "data/chunk_index": 0, "stats/action/mean": [0.0]}
        for camera in (TOP, WRIST):
            row |= {f"videos/{camera}/chunk_index": 0, f"videos/{camera}/file_index": int(episode == 2)}
            row |= {f"videos/{camera}/from_timestamp": from_s + off_s * bool(from_s), f"videos/{camera}/to_timestamp": from_s + length / FPS + off_s}
        rows.append(row)
    rows[1] |= changes
    for number, some in enumerate((rows[:2], rows[2:])):
        path = root / "meta" / "episodes" / "chunk-000" / f"file-{number:03d}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(some), path)


def _listed(source):
    items = list(source.list())
    return {item.name: item for item in items if isinstance(item, Video)}, [item for item in items if isinstance(item, BadRow)]


def _shown(root, video):
    """(numbers of the frames that a scan sees, the frames, the probe)."""
    with Decoder() as decoder:
        path = path_under(root, video.uri)
        shown = list(decoder.frames(path, SCAN_FIT, video.start_s or 0.0, video.end_s))
        return [_read(frame.image) for frame in shown], shown, decoder.probe(path)


def test_every_episode_and_camera_is_a_video_of_its_own(v21, v30):
    names = [f"episode_{episode:06d}/{camera}" for episode in range(3) for camera in (TOP, WRIST)]
    for root in (v21, v30):
        source = LeRobot(root=str(root))
        videos, bad = _listed(source)
        assert (list(videos), bad) == (names, [])
        assert {video.uri for video in videos.values()} == set(source.present())


def test_what_an_episode_says(v21, v30):
    for root in (v21, v30):
        videos = _listed(LeRobot(root=str(root)))[0]
        one, two, three = (videos[f"episode_{episode:06d}/{WRIST}"] for episode in range(3))
        assert (one.video_id, one.caption, one.label) == (f"lerobot/episode_000000/{WRIST}", "pick up the cup", "pick up the cup")
        assert one.scores == {"lerobot_camera": WRIST, "lerobot_robot": "so100", "lerobot_task": ("pick up the cup",)}
        assert (two.caption, two.scores["lerobot_task"]) == ("open the drawer", ("open the drawer", "close it"))
        assert (three.caption, three.label, "lerobot_task" in three.scores) == (None, None, False)
        assert (one.split, one.split_group, two.split_group) == (None, "episode_000000", "episode_000001")
        assert [video.seconds for video in (one, two, three)] == [pytest.approx(length / FPS, abs=2 * TOLERANCE_S) for length in LENGTHS]


@pytest.mark.parametrize("episode", range(3))
def test_an_episode_of_format_2_is_its_whole_file(v21, episode):
    video = _listed(LeRobot(root=str(v21)))[0][f"episode_{episode:06d}/{TOP}"]
    assert (video.uri, video.start_s, video.end_s) == (f"videos/chunk-{episode // 2:03d}/{TOP}/episode_{episode:06d}.mp4", None, None)
    start, length = _starts()[episode], LENGTHS[episode]
    assert _shown(v21, video)[0] == list(range(start, start + length))


@pytest.mark.parametrize("off_s", [0.0, 9e-5, -9e-5, 1e-9])
@pytest.mark.parametrize("episode", range(3))
@pytest.mark.slow
def test_an_episode_of_format_3_is_its_span_to_the_frame(v30, episode, off_s):
    _tables(v30, off_s)
    video = _listed(LeRobot(root=str(v30)))[0][f"episode_{episode:06d}/{TOP}"]
    assert video.uri == f"videos/{TOP}/chunk-000/file-{int(episode == 2):03d}.mp4"
    numbers, shown, probed = _shown(v30, video)
    start, length = _starts()[episode], LENGTHS[episode]
    assert numbers == list(range(start, start + length))
    [clip] = scan(shown, probed, video).clips
    assert (clip.whole, clip.frames, clip.clip_id) == (True, length, f"lerobot/episode_{episode:06d}/{TOP}")
    assert (clip.fps, clip.duration_s) == (pytest.approx(FPS, rel=1e-3), pytest.approx(length / FPS, abs=3 * TOLERANCE_S))


def test_a_product_samples_the_episode_alone(v30):
    _tables(v30)
    video = _listed(LeRobot(root=str(v30)))[0][f"episode_000001/{TOP}"]
    grid = Sampling(frames=5, height=HEIGHT, width=WIDTH, fps=5)
    _, shown, probed = _shown(v30, video)
    [clip] = scan(shown, probed, video).clips
    with Decoder() as decoder:
        images = decoder.sample(path_under(v30, video.uri), clip.start_s, clip.end_s, grid)
    assert [_read(image) for image in images] == [20, 26, 32, 38, 44]


def test_cameras_are_chosen_by_name_and_depth_maps_only_so(v21):
    assert {name.partition("/")[2] for name in _listed(LeRobot(root=str(v21), cameras=(WRIST,)))[0]} == {WRIST}
    depth = _listed(LeRobot(root=str(v21), cameras=(DEPTH,)))[0][f"episode_000000/{DEPTH}"]
    assert depth.uri not in LeRobot(root=str(v21)).present()
    for wrong in ((), ("front",), ("all", TOP)):
        with pytest.raises(CallError, match=f"wanted all, or some of {TOP}, {WRIST}"):
            list(LeRobot(root=str(v21), cameras=wrong).list())


def _tree(root, lines="", **changes):
    _info(root, "v2.1", **{"video_path": V2, **changes})
    (root / "meta" / "episodes.jsonl").write_text(lines)
    return LeRobot(root=str(root))


EPISODE = '{"episode_index": 0, "tasks": ["go"], "length": 3}\n'


def test_several_splits_are_the_datasets_own(tmp_path):
    lines = "".join(EPISODE.replace("0,", f"{number},") for number in range(4))
    source = _tree(tmp_path, lines, splits={"train": "0:2", "val": "2:3", "test": "3:99999999999999", "demo": "all"})
    videos = _listed(source)[0]
    assert [videos[f"episode_{number:06d}/{TOP}"].split for number in range(4)] == ["train", "train", "validation", "test"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("{", "this line is no JSON object"),
        ("[1]", "this line is no JSON object"),
        ('{"tasks": []}', "got episode_index 'None', wanted a number from 0"),
        ('{"episode_index": -1}', "got episode_index '-1'"),
        ('{"episode_index": true}', "got episode_index 'True'"),
    ],
)
def test_malformed_lines_are_said_with_file_and_line(tmp_path, line, said):
    videos, [bad] = _listed(_tree(tmp_path, f"{EPISODE}\n{line}\n"))
    assert (len(videos), bad.where) == (2, "meta/episodes.jsonl:3")
    assert said in bad.message


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({f"videos/{TOP}/to_timestamp": 0.1}, f"columns videos/{TOP}/from_timestamp and videos/{TOP}/to_timestamp: got 0.6"),
        ({f"videos/{TOP}/from_timestamp": None}, "got None to 1.7"),
        ({f"videos/{TOP}/file_index": None}, f"no file is named for camera {TOP}"),
    ],
)
def test_an_episode_without_file_or_span_is_said_with_its_row(tmp_path, changes, said):
    _info(tmp_path, "v3.0", V3)
    _tables(tmp_path, **changes)
    videos, [bad] = _listed(LeRobot(root=str(tmp_path)))
    assert (len(videos), bad.where, bad.video_id) == (5, "meta/episodes/chunk-000/file-000.parquet row 2", f"lerobot/episode_000001/{TOP}")
    assert said in bad.message


def test_a_table_that_cannot_be_read_may_be_mended(tmp_path):
    _info(tmp_path, "v3.0", V3)
    _tables(tmp_path)
    (tmp_path / "meta" / "episodes" / "chunk-000" / "file-001.parquet").write_bytes(b"PAR1")
    videos, [bad] = _listed(LeRobot(root=str(tmp_path)))
    assert (len(videos), bad.where, bad.permanent) == (4, "meta/episodes/chunk-000/file-001.parquet", False)


def test_cameras_stored_as_pictures_are_bad_rows(tmp_path):
    features = {TOP: {"dtype": "video"}, "observation.image": {"dtype": "image"}}
    videos, [bad] = _listed(_tree(tmp_path, EPISODE, features=features))
    assert (list(videos), bad.error) == ([f"episode_000000/{TOP}"], "NotAVideo")
    assert "camera observation.image is stored as pictures" in bad.message


def test_a_dataset_of_pictures_alone_is_a_wrong_call(tmp_path):
    with pytest.raises(CallError, match="names no camera that is stored as video"):
        list(_tree(tmp_path, EPISODE, features={"observation.image": {"dtype": "image"}}).list())


@pytest.mark.parametrize("template", ["videos/{video_key.__class__}.mp4", "{0}", "{video_key!r}", "{episode_index:0999999999d}", None])
def test_a_template_that_is_more_than_a_path_is_a_wrong_call(tmp_path, template):
    with pytest.raises(CallError, match="got video_path"):
        list(_tree(tmp_path, EPISODE, video_path=template).list())


def test_a_template_that_leads_out_of_the_root_names_no_file_that_is_there(tmp_path):
    (tmp_path / "outside.mp4").write_bytes(b"x")
    (tmp_path / "root").mkdir()
    source = _tree(tmp_path / "root", EPISODE, video_path="../outside.mp4")
    assert [video.uri for video in _listed(source)[0].values()] == ["../outside.mp4"] * 2
    assert source.present() == {}


def test_a_root_without_its_tables_says_what_is_wanted(tmp_path):
    with pytest.raises(CallError, match=r"wanted meta/info\.json of LeRobot's format"):
        list(LeRobot(root=str(tmp_path)).list())
    _info(tmp_path, "v1.6", V2)
    with pytest.raises(CallError, match=r"neither meta/episodes\.jsonl nor meta/episodes"):
        list(LeRobot(root=str(tmp_path)).list())
