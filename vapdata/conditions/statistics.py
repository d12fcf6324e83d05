"""Plain numbers about frames, without any model: how a look or a motion can be told from another.

`picture_statistics` says what a frame looks like; `clip_statistics` says how the end of a render differs from its
source, what moved, where and when. Exercised by `pytest tests/vapdata/conditions/test_statistics.py`.
"""

import math
from itertools import pairwise

import cv2
import numpy as np
from jaxtyping import Float, UInt8

from vapdata.conditions.picture import as_floats, grid, luma

STATISTICS = {
    "brightness": "mean light, 0-255",
    "contrast": "standard deviation of the light",
    "saturation": "mean distance between the strongest and the weakest colour channel, 0-255",
    "warmth": "mean of red less blue",
    "green": "mean of green less the mean of red and blue",
    "detail": "mean length of the light's second derivative",
    "flatness": "share of neighbouring pixels that are alike within one level",
    "colours": "entropy of the colours, 16 levels a channel, in bits",
    "dark": "share of pixels with light below 40",
    "light": "share of pixels with light above 215",
    "grid": "share of the light's variance along rows and columns that a period of 4 to 12 per picture height explains",
    "inversion": "1 less the correlation of the light with the source's",
    "flicker": "mean change of light from frame to frame, less the source's",
}
"""What each number of `end_statistics` is."""
LONG_SIDE = 160


def picture_statistics(frame: UInt8[np.ndarray, "h w 3"]) -> dict[str, float]:
    """The statistics that one frame has: all of `STATISTICS` but `inversion` and `flicker`."""
    image = as_floats(frame)
    light = luma(image)
    red, green, blue = (float(image[..., band].mean()) for band in range(3))
    codes = (frame.astype(np.int32) // 16) @ np.array([256, 16, 1], np.int32)
    share = np.bincount(codes.ravel()) / codes.size
    return {
        "brightness": float(light.mean()),
        "contrast": float(light.std()),
        "saturation": float((image.max(-1) - image.min(-1)).mean()),
        "warmth": red - blue,
        "green": green - (red + blue) / 2,
        "detail": float(np.abs(cv2.Laplacian(light, cv2.CV_32F)).mean()),
        "flatness": float((np.abs(np.diff(light, axis=1)) <= 1).mean()),
        "colours": float(-(share[share > 0] * np.log2(share[share > 0])).sum()),
        "dark": float((light < 40).mean()),
        "light": float((light > 215).mean()),
        "grid": _periodic(light),
    }


def end_statistics(source: UInt8[np.ndarray, "t h w 3"], shown: UInt8[np.ndarray, "t h w 3"]) -> dict[str, float]:
    """What the last third of a render has more (or less) of than the same third of its source; keys as `STATISTICS`."""
    tail = range(len(shown) * 2 // 3, len(shown))
    after, before = (_mean([picture_statistics(frames[index]) for index in tail]) for frames in (shown, source))
    change = {name: after[name] - before[name] for name in after}
    change["inversion"] = float(np.mean([1 - _correlation(source[index], shown[index]) for index in tail]))
    change["flicker"] = _flicker(shown[tail.start :]) - _flicker(source[tail.start :])
    return change


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}


def _correlation(first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"]) -> float:
    a, b = (luma(as_floats(frame)).ravel().astype(np.float64) for frame in (first, second))
    spread = a.std() * b.std()
    return float(((a - a.mean()) * (b - b.mean())).mean() / spread) if spread > 1e-6 else 0.0


def _flicker(frames: UInt8[np.ndarray, "t h w 3"]) -> float:
    light = np.stack([luma(as_floats(frame)) for frame in frames])
    return float(np.abs(np.diff(light, axis=0)).mean()) if len(light) > 1 else 0.0


def _periodic(light: Float[np.ndarray, "h w"]) -> float:
    """How much the fine light repeats itself along rows and columns with one period."""
    fine = light - cv2.GaussianBlur(light, (0, 0), light.shape[0] / 20)
    strongest = []
    for axis in (0, 1):
        power = (np.abs(np.fft.rfft(fine, axis=axis)) ** 2).mean(1 - axis)[1:]
        strongest.append(float(power.max() / max(1e-6, power.sum())))
    return float(np.mean(strongest))


def global_motion(frames: UInt8[np.ndarray, "t h w 3"]) -> Float[np.ndarray, "steps 4"]:
    """From each frame to the next, how the picture as a whole moves: (right, down, clockwise degrees, log of zoom).

    Shifts are of the picture's middle, in parts of the picture's height. Corners are tracked (Lucas-Kanade) and a
    similarity is fitted to them with outliers left out (LMedS, which draws from a fixed seed); zeros where nothing can be tracked.
    """
    height, width = frames.shape[1:3]
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    steps = np.zeros((max(0, len(frames) - 1), 4))
    for index, (first, second) in enumerate(pairwise(greys)):
        corners = cv2.goodFeaturesToTrack(first, 200, 0.01, max(3, height // 30))
        if corners is None or len(corners) < 6:
            continue
        moved, found, _ = cv2.calcOpticalFlowPyrLK(first, second, corners, None, winSize=(15, 15), maxLevel=3)
        kept = found.ravel() == 1
        if kept.sum() < 6:
            continue
        matrix, _ = cv2.estimateAffinePartial2D(corners[kept], moved[kept], method=cv2.LMEDS)
        steps[index] = _similarity(matrix, height, width)
    return steps


def net_motion(first: UInt8[np.ndarray, "h w 3"], last: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, " 4"]:
    """As one step of `global_motion`, between frames far apart: ORB features, matched both ways; zeros where too few agree."""
    height, width = first.shape[:2]
    engine = cv2.ORB_create(400, edgeThreshold=8, patchSize=17, fastThreshold=8)
    (points, marks), (seen, signs) = (engine.detectAndCompute(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), None) for frame in (first, last))
    if marks is None or signs is None:
        return np.zeros(4)
    matches = [each for each in cv2.BFMatcher(cv2.NORM_HAMMING, crossCheck=True).match(marks, signs) if each.distance < 50]
    if len(matches) < 6:
        return np.zeros(4)
    here, there = np.array([points[m.queryIdx].pt for m in matches]), np.array([seen[m.trainIdx].pt for m in matches])
    matrix, agreed = cv2.estimateAffinePartial2D(here, there, method=cv2.RANSAC, ransacReprojThreshold=2.0)
    return _similarity(matrix if agreed is not None and agreed.sum() >= 6 else None, height, width)


def _similarity(matrix: Float[np.ndarray, "2 3"] | None, height: int, width: int) -> Float[np.ndarray, " 4"]:
    if matrix is None:
        return np.zeros(4)
    middle = np.array([width / 2, height / 2, 1.0])
    shift = (matrix @ middle - middle[:2]) / height
    zoom = math.hypot(matrix[0, 0], matrix[1, 0])
    return np.array([*shift, math.degrees(math.atan2(matrix[1, 0], matrix[0, 0])), math.log(max(1e-3, zoom))])


def clip_statistics(
    source: UInt8[np.ndarray, "t h w 3"], shown: UInt8[np.ndarray, "t h w 3"], subject: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, " n"]:
    """A row of numbers for telling renders apart: look, global motion, and what changes where and when.

    The look of the end, by itself and against the source's (`end_statistics`), over the picture and over the subject's box; the global
    motion's path in quarters and from first to last frame; the change from frame 0 in each quarter, inside the subject and in four sides around it;
    the flow's direction, spread, turn and swelling in and around the subject.
    """
    left, top, right, bottom = _box(subject)
    box = np.s_[:, top:bottom, left:right]
    tail = [picture_statistics(frame) for frame in shown[-3:]]
    look = [*_mean(tail).values(), *end_statistics(source, shown).values(), *end_statistics(source[box], shown[box]).values()]
    path = global_motion(shown)
    quarters = [part.sum(0) for part in np.array_split(path, 4)] + [np.abs(path).mean(0), path.std(0), net_motion(shown[0], shown[-1])]
    return np.array([*look, *np.concatenate(quarters), *_changes(shown, subject), *_flows(shown, subject)])


def _box(subject: Float[np.ndarray, "h w"]) -> tuple[int, int, int, int]:
    rows, columns = np.nonzero(subject > 0.5)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def _regions(subject: Float[np.ndarray, "h w"]) -> list[Float[np.ndarray, "h w"]]:
    """The subject, then what lies left of, right of, above and below its middle outside it."""
    left, top, right, bottom = _box(subject)
    y, x = grid(*subject.shape)
    outside = subject < 0.05
    sides = (x < left, x >= right, y < top, y >= bottom)
    return [subject.astype(np.float64), *((outside & side).astype(np.float64) for side in sides)]


def _changes(shown: UInt8[np.ndarray, "t h w 3"], subject: Float[np.ndarray, "h w"]) -> list[float]:
    """Mean change of colour against frame 0 and against the frame before, per quarter of time and region."""
    regions = _regions(subject)
    first = as_floats(shown[0])
    rows = []
    for index in range(1, len(shown)):
        now, before = as_floats(shown[index]), as_floats(shown[index - 1])
        planes = np.abs(now - first).mean(-1), np.abs(now - before).mean(-1), luma(now) - luma(first)
        rows.append([float((plane * region).sum() / max(1.0, region.sum())) for region in regions for plane in planes])
    return [value for part in np.array_split(np.array(rows), 4) for value in part.mean(0)]


def _flows(shown: UInt8[np.ndarray, "t h w 3"], subject: Float[np.ndarray, "h w"]) -> list[float]:
    """DIS flow in the subject's box and outside it: mean (right, down), length, swelling and turn, per quarter; and how often each turns round."""
    engine = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST)
    greys = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in shown]
    left, top, right, bottom = _box(subject)
    y, x = grid(*subject.shape)
    inside = np.zeros(subject.shape, bool)
    inside[top:bottom, left:right] = True
    across, down = (x - (left + right) / 2) / max(1, right - left), (y - (top + bottom) / 2) / max(1, bottom - top)
    far = across**2 + down**2 + 0.05
    rows = []
    for first, second in pairwise(greys):
        flow = engine.calc(first, second, None) / subject.shape[0] * 100
        u, v = flow[..., 0], flow[..., 1]
        swell, turn = (u * across + v * down) / far, (v * across - u * down) / far
        rows.append([float(plane[where].mean()) for where in (inside, ~inside) for plane in (u, v, np.hypot(u, v), swell, turn)])
    table = np.array(rows)
    turns = (np.diff(np.sign(np.where(np.abs(table) < 0.15, 0, table)), axis=0) != 0).mean(0)
    return [*(value for part in np.array_split(table, 4) for value in part.mean(0)), *turns, *table.std(0)]
