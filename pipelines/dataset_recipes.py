"""Recipes of the papers' datasets: which clips, at which grid, with which encoders.

Where a paper gives a count and no rule, the rule is ours and stands in the recipe's docstring. Each fits any source that
has the scores its predicate names. Exercised by `pytest tests/pipelines/test_recipes.py`.
"""

from typing import Any, Literal

from pipelines.backbone_recipes import hunyuan_i2v, in_stages, wan_i2v, wan_t2v
from pipelines.recipe import Recipe
from vapdata.clip import Sampling
from vapdata.encoders.blip2_words import Blip2Words
from vapdata.encoders.first_frame import FirstFrame
from vapdata.encoders.image_tokens import ImageTokens
from vapdata.encoders.keywords import Keywords
from vapdata.encoders.t5 import T5
from vapdata.encoders.vae import Vae
from vapdata.encoders.vae_first import VaeFirst
from vapdata.filters.cuts import Cuts

ONE_SHOT = Cuts(min_s=3600.0)
"""No cut in the first hour: an annotated action is one shot, and a false cut would take its caption away."""

HD = "whole and short_side >= 1080 and duration_s > 5"
"""1080p, in one shot, and long enough for 81 frames at 16 fps."""
SSG_CLIPS = 33_500
FG_CLIPS = 12_000


def fca_ssv2() -> Recipe:
    """Something-Something V2 for FCA on CogVideoX-2B: 16 frames of 480 x 720 spread evenly over the clip, 2 initial frames.

    Seer, which FCA is compared with, resamples the whole clip by blending neighbours; here each frame is one that is
    shown. 2 fps is the least: a clip of 7.5 s or more is sampled at that rate from its start.
    """
    return _fca("fca-ssv2", fps=2, first=2)


def fca_bridge() -> Recipe:
    """BridgeData for FCA on CogVideoX-2B: 16 frames of 480 x 720 spread evenly over the trajectory, 1 initial frame.

    1 fps is the least: a trajectory of 15 s (75 steps) or more is sampled at that rate from its start.
    """
    return _fca("fca-bridge", fps=1, first=1)


def fca_epic() -> Recipe:
    """Epic-Kitchens-100 for FCA on CogVideoX-2B: 16 frames of 480 x 720 spread evenly over the action, 1 initial frame.

    1 fps is the least: an action of 15 s or more is sampled at that rate from its start.
    """
    return _fca("fca-epic", fps=1, first=1)


def vap_cogvideox() -> Recipe:
    """Video-As-Prompt on CogVideoX-5B-I2V: 49 frames of 480 x 720 at 16 fps, from the clip's start.

    The released loader resamples to 16 fps and then spreads 49 frames over the clip; at 3 s both are the same.
    """
    sampling = Sampling(frames=49, height=480, width=720, fps=16)
    grid: dict[str, Any] = {"backbone": "cogvideox-5b-i2v", "sampling": sampling}
    frames = (FirstFrame(sampling=sampling), Vae(**grid), VaeFirst(**grid))
    return in_stages("cogvideox-5b-i2v", sampling, frames, (T5(backbone="cogvideox-5b-i2v"),), name="vap-cogvideox")


def vap_wan() -> Recipe:
    """Video-As-Prompt on Wan2.1-I2V-14B: 49 frames of 480 x 832 at 16 fps, the image condition and CLIP-H tokens."""
    return wan_i2v("wan2.1-i2v-14b-480p", Sampling(frames=49, height=480, width=832, fps=16), name="vap-wan")


def ssg_openvidhd_33k() -> Recipe:
    """SSG-DiT's 33.5 thousand OpenVidHD clips for Wan2.1-T2V-1.3B: 81 frames of 480 x 832 at 16 fps.

    The paper says "OpenVidHD, 1080p, 33.5 K" and no more. Our rule: of the clips in one shot, of 1080 lines or more and longer
    than 5 s, the 33,500 with the highest aesthetic score of the dataset (more at a tie for the last place, all when there
    are fewer). It names `openvid_aesthetic`, so it wants --source openvid; another --where takes its place.
    """
    best = f"(select openvid_aesthetic as a from clips_wide where {HD} and openvid_aesthetic is not null order by a desc limit {SSG_CLIPS})"
    where = f"{HD} and openvid_aesthetic >= (select min(a) from {best})"
    return wan_t2v("wan2.1-t2v-1.3b", Sampling(frames=81, height=480, width=832, fps=16), name="ssg-openvidhd-33k", where=where)


def fg_12k() -> Recipe:
    """Focal Guidance's 12 thousand clips for Wan2.1-I2V-14B: 81 frames of 480 x 832 at 16 fps, keywords and their anchors.

    The paper's videos are its own and not described. Our rule: of the clips in one shot, of 480 lines or more, longer than 5 s,
    the 12,000 whose id has the lowest MD5: a sample that every machine draws alike. The CLIP-H tokens are of the stretched
    frame, as the keywords' maps are: a middle cut out would leave parts of the latent unseen.
    """
    sampling = Sampling(frames=81, height=480, width=832, fps=16)
    grid: dict[str, Any] = {"backbone": "wan2.1-i2v-14b-480p", "sampling": sampling}
    more = (ImageTokens(**grid, geometry="stretch"), Keywords(**grid))
    return wan_i2v("wan2.1-i2v-14b-480p", sampling, more, name="fg-12k", where=_drawn())


def fg_12k_hunyuan() -> Recipe:
    """Focal Guidance's 12 thousand clips for HunyuanVideo-I2V: 61 frames of 544 x 960 at 24 fps, keywords and their anchors.

    The same clips as `fg-12k`, by the same rule. Anchors lie in the joint space, since HunyuanVideo has no embedder for pictures.
    """
    sampling = Sampling(frames=61, height=544, width=960, fps=24)
    more = (Keywords(backbone="hunyuanvideo-i2v", sampling=sampling),)
    return hunyuan_i2v("hunyuanvideo-i2v", sampling, more, name="fg-12k-hunyuan", where=_drawn())


def _drawn() -> str:
    """The predicate of Focal Guidance's clips."""
    eligible = "whole and short_side >= 480 and duration_s > 5"
    drawn = f"(select md5(clip_id) as h from clips_wide where {eligible} order by h limit {FG_CLIPS})"
    return f"{eligible} and md5(clip_id) <= (select max(h) from {drawn})"


def _fca(name: str, *, fps: float, first: Literal[1, 2]) -> Recipe:
    """FCA reads the latent of all frames and of the initial ones, T5, BLIP-2's tokens of frame 0 and its words of the caption."""
    sampling = Sampling(frames=16, height=480, width=720, fps=fps, short="slow")
    grid: dict[str, Any] = {"backbone": "cogvideox-2b", "sampling": sampling}
    frames = (FirstFrame(sampling=sampling), ImageTokens(**grid, tower="blip2"), Vae(**grid), VaeFirst(**grid, first=first))
    return in_stages("cogvideox-2b", sampling, frames, (T5(backbone="cogvideox-2b"), Blip2Words(backbone="cogvideox-2b")), name=name, cuts=ONE_SHOT)
