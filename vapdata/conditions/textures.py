"""Seeded textures and partitions of the plane that stay put from frame to frame.

Exercised by `pytest tests/vapdata/conditions/test_textures.py`.
"""

import cv2
import numpy as np
from jaxtyping import Float, Int

Plane = Float[np.ndarray, "h w"]


def noise(random: np.random.Generator, height: int, width: int, cell: float, octaves: int = 1) -> Plane:
    """Smooth noise, 0-1 and evenly spread over it, its blobs about `cell` pixels; each further octave is half as large and strong."""
    total = np.zeros((height, width), np.float32)
    for octave in range(octaves):
        size = max(1.0, cell / 2**octave)
        coarse = random.standard_normal((max(2, round(height / size) + 1), max(2, round(width / size) + 1))).astype(np.float32)
        total += cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC) / 2**octave
    return evened(total)


def evened(plane: Plane) -> Plane:
    """Each value replaced by its rank, 0-1: any threshold then keeps that share of the pixels."""
    ranks = np.empty(plane.size, np.float32)
    ranks[np.argsort(plane, axis=None, kind="stable")] = np.linspace(0, 1, plane.size, dtype=np.float32)
    return ranks.reshape(plane.shape)


def shards(random: np.random.Generator, height: int, width: int, cell: float) -> Int[np.ndarray, "h w"]:
    """Voronoi cells of a jittered grid, about `cell` pixels wide: each pixel's cell, numbered from 0."""
    rows, columns = max(2, round(height / cell)), max(2, round(width / cell))
    jitter = random.uniform(0.1, 0.9, (2, rows, columns))
    middles_y = ((np.arange(rows)[:, None] + jitter[0]) * height / rows).ravel()
    middles_x = ((np.arange(columns)[None, :] + jitter[1]) * width / columns).ravel()
    nearest = np.full((height, width), np.inf, np.float32)
    labels = np.zeros((height, width), np.int32)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    reach = int(2.2 * max(height / rows, width / columns)) + 2
    for label, (py, px) in enumerate(zip(middles_y, middles_x, strict=True)):
        window = np.s_[max(0, int(py) - reach) : int(py) + reach, max(0, int(px) - reach) : int(px) + reach]
        far = (y[window] - py) ** 2 + (x[window] - px) ** 2
        closer = far < nearest[window]
        nearest[window][closer] = far[closer]
        labels[window][closer] = label
    return labels


def triangles(random: np.random.Generator, height: int, width: int, cell: float) -> Int[np.ndarray, "h w"]:
    """A mesh of jittered triangles with sides of about `cell` pixels: each pixel's triangle, numbered from 0."""
    rows, columns = max(2, round(height / cell)), max(2, round(width / cell))
    y, x = np.mgrid[: rows + 1, : columns + 1].astype(np.float32)
    inner = (y > 0) & (y < rows), (x > 0) & (x < columns)
    y = (y + np.where(inner[0], random.uniform(-0.36, 0.36, y.shape), 0)) * height / rows
    x = (x + np.where(inner[1], random.uniform(-0.36, 0.36, x.shape), 0)) * width / columns
    points = np.stack([x, y], axis=-1)
    labels = np.zeros((height, width), np.int32)
    for row in range(rows):
        for column in range(columns):
            a, b, c, d = points[row, column], points[row, column + 1], points[row + 1, column + 1], points[row + 1, column]
            pair = ([a, b, c], [a, c, d]) if random.random() < 0.5 else ([a, b, d], [b, c, d])
            for half, corners in enumerate(pair):
                cv2.fillConvexPoly(labels, np.rint(corners).astype(np.int32), 2 * (row * columns + column) + half)
    return labels


def means(image: Float[np.ndarray, "h w 3"], labels: Int[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Every pixel as the mean colour of its cell."""
    flat = labels.ravel()
    counts = np.maximum(np.bincount(flat), 1)
    colours = np.stack([np.bincount(flat, image[..., band].ravel()) / counts for band in range(3)], axis=-1)
    return colours.astype(np.float32)[labels]


def borders(labels: Int[np.ndarray, "h w"], thick: int) -> Plane:
    """1 on the lines between cells, `thick` pixels wide and a little soft, 0 elsewhere."""
    lines = np.zeros(labels.shape, np.float32)
    lines[:, 1:] = labels[:, 1:] != labels[:, :-1]
    lines[1:] = np.maximum(lines[1:], labels[1:] != labels[:-1])
    if thick > 1:
        lines = cv2.dilate(lines, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (thick, thick)))
    return cv2.GaussianBlur(lines, (3, 3), 0)
