"""Raw BridgeData: where trajectories lie, which frames count, what lang.txt says, and which are left out."""

import json

import pytest
from PIL import Image

from vapdata.clip import BadRow, Video, path_under
from vapdata.decoder import Decoder
from vapdata.errors import CallError
from vapdata.scan import SCAN_FIT, scan
from vapdata.sources.bridge import Bridge

V1 = "bridge_data_v1/berkeley/toykitchen1/put_pot_in_sink_distractors/2021-08-01_10-00-00/raw/traj_group0/traj0"
V2 = "bridge_data_v2/datacol2_toykitchen7/drawer_pnp/01/2023-04-19_09-18-15/raw/traj_group0/traj3"
OLD = "rss/toykitchen2/flip-cup/2021-07-22_23-59-59/raw/traj_group2/traj11"


@pytest.fixture
def tree(tmp_path):
    """`tree({path of a trajectory: text of lang.txt or None}, ...)` writes each with 12 frames; gives the source."""

    def make(trajectories, views=("images0",), frames=12, **fields):
        for path, text in trajectories.items():
            for view in views:
                folder = tmp_path / path / view
                folder.mkdir(parents=True, exist_ok=True)
                for number in range(frames):
                    Image.new("RGB", (32, 24), (20 * number,) * 3).save(folder / f"im_{number}.jpg")
            (tmp_path / path / "obs_dict.pkl").write_bytes(f"cos\nsystem\n(S'touch {tmp_path}/unpickled'\ntR.".encode())
            if text is not None:
                (tmp_path / path / "lang.txt").write_text(text)
        return Bridge(root=str(tmp_path), **fields)

    return make


def _listed(source):
    items = list(source.list())
    return {item.name: item for item in items if isinstance(item, Video)}, [item for item in items if isinstance(item, BadRow)]


def test_dated_folders_are_found_at_any_depth(tree):
    videos, bad = _listed(tree({V1: "a", V2: "b", OLD: "c"}))
    assert bad == []
    assert {name: (video.label, video.scores["bridge_environment"]) for name, video in videos.items()} == {
        f"{V1}/images0": ("put_pot_in_sink_distractors", "toykitchen1"),
        f"{V2}/images0": ("drawer_pnp", "datacol2_toykitchen7"),
        f"{OLD}/images0": ("flip-cup", "toykitchen2"),
    }


def test_a_trajectory_becomes_a_video(tree):
    source = tree({V1: "put the pot in the sink\nconfidence: 0.75\n"})
    video = _listed(source)[0][f"{V1}/images0"]
    assert (video.video_id, video.uri) == (f"bridge/{V1}/images0", f"{V1}/images0")
    assert video.split_group == V1.partition("/raw")[0]
    assert (video.caption, video.scores["bridge_confidence"], video.scores["bridge_view"]) == ("put the pot in the sink", 0.75, "images0")
    assert (video.folder_fps, video.start_s, video.seconds, video.license) == (5.0, None, 12 / 5, "CC BY 4.0")
    assert source.present() == {video.uri: video.bytes}


@pytest.mark.parametrize(
    ("text", "cut", "dropped"),
    [
        ("put beet in pot sink confidence: 0.8", "put beet in pot sink", None),
        ("put beet in pot sink, Confidence 0.8\nlift it", "put beet in pot sink,", "lift it"),
        ("lift it\nconfidence: 1.0\n", "lift it", "lift it"),
        ("\n  lift it  \n\n", "lift it", "lift it"),
        ("confidence: 0.2\n", None, None),
        ("", None, None),
    ],
)
def test_text_ends_at_the_word_confidence(tree, text, cut, dropped):
    source = tree({V1: text})
    assert _listed(source)[0][f"{V1}/images0"].caption == cut
    assert _listed(Bridge(root=source.root, lang="drop_line"))[0][f"{V1}/images0"].caption == dropped


def test_several_instructions_are_all_kept_and_the_first_is_the_caption(tree):
    video = _listed(tree({V1: "lift it\nraise it\nconfidence: 0.5"}))[0][f"{V1}/images0"]
    assert (video.caption, video.scores["bridge_instruction"]) == ("lift it", ("lift it", "raise it"))


@pytest.mark.parametrize(("text", "told", "untold"), [("lang", "go", None), ("task", "put pot in sink", "flip cup"), ("lang_or_task", "go", "flip cup")])
def test_the_task_in_words_may_stand_for_the_text(tree, text, told, untold):
    videos = _listed(tree({V1: "go", OLD: None}, text=text))[0]
    assert [videos[f"{path}/images0"].caption for path in (V1, OLD)] == [told, untold]


def test_the_first_frame_is_left_out_before_the_lag_was_mended(tree):
    source = tree({V1: "a", OLD: "b"})
    videos = _listed(source)[0]
    assert (videos[f"{OLD}/images0"].start_s, videos[f"{OLD}/images0"].seconds) == (0.2, 11 / 5)
    assert videos[f"{V1}/images0"].start_s is None
    with Decoder() as decoder:
        for path, numbers in ((V1, range(12)), (OLD, range(1, 12))):
            video = videos[f"{path}/images0"]
            on_disk = path_under(source.root, video.uri)
            shown = list(decoder.frames(on_disk, SCAN_FIT, video.start_s or 0.0, video.end_s, folder_fps=video.folder_fps))
            assert [round(frame.image.mean() / 20) for frame in shown] == list(numbers)
            [clip] = scan(shown, decoder.probe(on_disk, folder_fps=video.folder_fps), video).clips
            assert (clip.whole, clip.frames, clip.clip_id) == (True, len(numbers), video.video_id)


def test_the_day_of_the_mending_has_no_lag(tree):
    path = OLD.replace("2021-07-22_23-59-59", "2021-07-23_00-00-00")
    assert _listed(tree({path: "b"}))[0][f"{path}/images0"].start_s is None


def test_views_are_videos_of_their_own_in_one_split_group(tree):
    source = tree({V1: "a"}, views=("images0", "images2", "depth_images0"))
    assert list(_listed(source)[0]) == [f"{V1}/images0"]
    every = _listed(Bridge(root=source.root, views=("all",)))[0]
    assert list(every) == [f"{V1}/images0", f"{V1}/images2"]
    assert len({video.split_group for video in every.values()}) == 1
    assert list(_listed(Bridge(root=source.root, views=("images2",)))[0]) == [f"{V1}/images2"]


@pytest.mark.parametrize(
    "path",
    [
        "bridge_data_v1/berkeley/toykitchen1/flip_pot_upright_in_sink_distractors/2021-06-02_16-36-21/raw/traj_group0/traj18",
        "bridge_data_v2/datacol2_toykitchen1/pnp_push_sweep/04/2023-07-05_16-29-29/raw/traj_group0/traj49",
        "bridge_data_v2/datacol2_toykitchen1/pnp_push_sweep/01/2023-07-03_15-11-24/raw/traj_group0/traj24",
    ],
)
def test_trajectories_known_to_be_broken_are_bad_rows(tree, path):
    videos, [row] = _listed(tree({path: "a", path + "9": "b"}))
    assert (row.where, row.error, row.video_id, row.permanent) == (path, "KnownBad", f"bridge/{path}/images0", True)
    assert list(videos) == [f"{path}9/images0"]


def test_a_trajectory_without_frames_is_a_bad_row_that_may_be_mended(tree):
    videos, [row] = _listed(tree({V1: "a", V2: "b"}, views=("images1",)))[0], _listed(tree({V1: "a"}))[1]
    assert len(videos) == 0
    assert (row.where, row.error, row.permanent) == (V2, "NoFrames", False)
    assert "no frame im_0.jpg ... in images0" in row.message


def test_one_frame_with_lag_leaves_none(tree):
    videos, [row] = _listed(tree({OLD: "a"}, frames=1))
    assert (videos, row.error) == ({}, "NoFrames")


def test_paths_with_lmdb_in_them_are_passed_over(tree):
    assert list(_listed(tree({f"lmdb/{V1}": "a", V1: "a"}))[0]) == [f"{V1}/images0"]


def test_nothing_is_unpickled(tree, tmp_path):
    assert _listed(tree({V1: "a"}))[1] == []
    assert not (tmp_path / "unpickled").exists()


def test_seers_list_splits_by_its_order(tree, tmp_path):
    paths = [f"v1/kitchen{place}/push/2022-01-0{place}_00-00-00/raw/traj_group0/traj0" for place in range(1, 6)]
    listed = tmp_path / "path_id_bridgedata.txt"
    listed.write_text(json.dumps(["push/3", "push/0", "push/1", "push/9", "push/2"]))
    videos, [row] = _listed(tree(dict.fromkeys(paths, "a"), seer_list=str(listed)))
    assert [video.split for video in videos.values()] == ["train", "train", "validation", "train"]
    assert [video.split_group for video in videos.values()] == paths[:4]
    assert (row.error, row.where) == ("NotInList", paths[4])


def test_seers_real_list_gives_its_own_counts(real_clips):
    from vapdata.sources.bridge import _seer_splits

    splits = list(_seer_splits(str(real_clips / "metadata" / "bridge_path_ids_first400.json")).values())
    assert (splits.count("train"), splits.count("validation")) == (320, 80)


@pytest.mark.parametrize("text", ["{", "{}", "[1]"])
def test_a_file_that_is_no_such_list_is_a_wrong_call(tree, tmp_path, text):
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(CallError, match=r"--set bridge\.seer_list="):
        list(tree({V1: "a"}, seer_list=str(tmp_path / "list.txt")).list())


@pytest.mark.parametrize("fields", [{"fps": 0.0}, {"views": ()}, {"views": ("wrist",)}])
def test_settings_that_make_no_sense_are_wrong_calls(fields):
    with pytest.raises(CallError, match="Type --set bridge"):
        Bridge(**fields)


def test_a_root_without_trajectories_says_what_is_wanted(tmp_path):
    with pytest.raises(CallError, match=r"raw/traj_group0/traj0/images0/im_0\.jpg"):
        list(Bridge(root=str(tmp_path)).list())


def test_the_real_miniature_is_listed_whole(real_clips):
    source = Bridge(root=str(real_clips / "bridge"))
    videos, bad = _listed(source)
    assert bad == []
    assert {video.uri for video in videos.values()} == set(source.present())
    captions = {video.label: video.caption for video in videos.values()}
    assert "put beet in pot sink" in [video.caption for video in videos.values()]
    assert (captions["close_cabinet"], captions["pick_up_any_cup"]) == (None, "pick up any cup")
    assert [video.label for video in videos.values() if video.start_s] == ["put_banana_on_plate"]
