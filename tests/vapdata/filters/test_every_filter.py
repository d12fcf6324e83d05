"""Every filter that looks at frames, over every real clip in one pass: finite numbers, and right where the answer is known."""

import csv
import math
from dataclasses import replace

import pytest

from vapdata.clip import Video
from vapdata.filters import FILTERS
from vapdata.registry import load
from vapdata.scan import Scanner, fit_for
from vapdata.video import frames, probe

NEEDS_WEIGHTS = ("motion_raft",)
RATES = {"text_overlay": 0.25}
"""A detector's frames are dear: fewer of them."""
WITH_VECTORS = ("h264", "mpeg4")

pytestmark = pytest.mark.slow


def _filters():
    classes = [load(FILTERS, name, "filter") for name in FILTERS if name not in NEEDS_WEIGHTS]
    plain = [each() for each in classes if hasattr(each, "fps") and not hasattr(each, "look")]
    return [replace(each, fps=RATES[each.name]) if each.name in RATES else each for each in plain]


@pytest.fixture(scope="module")
def scanned(real_clips):
    """File -> (its row of clips.csv, scores, failures)."""
    filters = _filters()
    scanner, fit, found = Scanner(filters=filters), fit_for(filters), {}
    with open(real_clips / "clips" / "clips.csv", encoding="utf-8") as rows:
        for row in csv.DictReader(rows):
            path = real_clips / "clips" / row["file"]
            video = Video(video_id=row["file"], dataset="d", name=row["file"], uri=row["file"], split_group=".")
            result = scanner.scan(frames(path, fit), probe(path), video)
            assert result.failure is None, row["file"]
            (scores,) = result.scores.values()
            found[row["file"]] = (row, scores, result.clip_failures)
    return found


def test_every_clip_has_a_finite_number_or_a_label_of_every_filter_and_no_failure_but_a_codec_without_vectors(scanned):
    declared = {name: kind for each in _filters() for name, kind in each.writes().items()}
    assert len(scanned) == 59
    for file, (row, scores, failures) in scanned.items():
        assert all((score.value is not None and math.isfinite(score.value)) or score.label for score in scores), file
        failed = {name for _, name, _ in failures}
        assert failed == (set() if row["codec"] in WITH_VECTORS else {"codec_motion"}), file
        wanted = {name for name in declared if not (failed and name.startswith("codec_motion"))}
        assert {score.filter for score in scores} == wanted, file
        assert all(score.value is not None or declared[score.filter] == "label" for score in scores), file


def test_camera_motion_agrees_with_four_of_five_tags_static_pan_or_zoom(scanned):
    agreed = {}
    for file, (row, scores, _) in scanned.items():
        wanted = [tag.split(" ")[0] for tag in row["tags"].split(";") if tag in ("static camera", "pan", "zoom")]
        labels = {score.label.partition("_")[0] for score in scores if score.filter == "camera_motion"}
        if wanted:
            agreed[file] = labels == {"static"} if wanted == ["static"] else wanted[0] in labels
    assert len(agreed) == 37
    assert sum(agreed.values()) >= 0.8 * len(agreed), [file for file, right in agreed.items() if not right]


def _values(scanned, name):
    return {file: score.value for file, (_, scores, _) in scanned.items() for score in scores if score.filter == name}


def test_the_pillarbox_is_found_and_no_bar_in_a_bright_clip(scanned):
    bars = _values(scanned, "letterbox")
    assert 0.2 < bars["mp_chaplin.mp4"] < 0.25
    dark = {file for file, (row, _, _) in scanned.items() if "dark" in row["tags"]}
    assert {file for file, share in bars.items() if share > 0} - dark == {"mp_chaplin.mp4"}


def test_subtitles_and_logos_are_text_that_stays_and_natural_scenes_have_none_that_does(scanned):
    stays = _values(scanned, "text_overlay_persistence")
    tagged = [stays[file] for file in ("dj_video1.mp4", "simpler_sim.mp4", "se_154439.gif", "se_31061.gif", "se_35176.gif")]
    plain = [stays[file] for file in ("br_beet.mp4", "sam_dog.mp4", "me_issue515.mp4", "ta_2.mp4", "vbench_walking.mp4")]
    assert min(tagged) > 0.5 >= max(plain), "a duck far away on the water is once taken for a word"


def test_no_natural_clip_is_frozen_for_a_second(scanned):
    assert max(_values(scanned, "static_longest_s").values()) < 1


def test_codec_motion_orders_clips_much_as_optical_flow_does(scanned):
    codec, flow = _values(scanned, "codec_motion"), _values(scanned, "motion")
    pairs = [(one, other) for one in codec for other in codec if flow[one] > 2 * flow[other]]
    assert sum(codec[one] > codec[other] for one, other in pairs) > 0.8 * len(pairs)
