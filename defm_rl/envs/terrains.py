"""Courses for legged robots: levels of obstacles built from boxes, drawn from a seed and a difficulty."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Blocks = list[tuple[float, float, float, float, float]]
"""Boxes by x_min, x_max, y_min, y_max and height of the top, in metres. All stand on the ground of the pit."""

PIT_M = 0.5
"""How deep holes are."""

HALF_WIDTH_M = 0.8
START_X, OBSTACLES_X, FINISH_X, END_X = -1.0, (0.8, 3.6), 4.0, 5.0
"""Where the course, its obstacles, the finish and the course's end lie; robots start at 0."""

_CELL_M = 0.02
GRID_SHAPE = (round((END_X - START_X) / _CELL_M), round(2 * HALF_WIDTH_M / _CELL_M))


@dataclass(frozen=True)
class Course:
    """One episode's ground. Metres.

    Attributes:
        obstacles: Of which kind: the level's name but where that is "mixed".
        difficulty: From 0 to 1.
        boxes: (n, 7): x, y, z of the centre, half lengths in x, y, z, yaw.
        heights: GRID_SHAPE: height of the ground, for `heights_at`.
    """

    obstacles: str
    difficulty: float
    boxes: Floats
    heights: NDArray[np.float32]


@dataclass(frozen=True)
class Level:
    """A family of courses with the same number of boxes.

    Attributes:
        name: How it is asked for.
        num_boxes: Boxes in every course; what obstacles leave over lies out of sight.
        obstacles: Kinds, of which each course has one, by name. Each draws its blocks between `OBSTACLES_X` from a
            generator and a difficulty between 0 and 1.
    """

    name: str
    num_boxes: int
    obstacles: dict[str, Callable[[np.random.Generator, float], Blocks]]


def _across(x_min: float, x_max: float, top: float = 0.0) -> tuple[float, float, float, float, float]:
    return x_min, x_max, -HALF_WIDTH_M, HALF_WIDTH_M, top


def _flat(rng: np.random.Generator, difficulty: float) -> Blocks:
    return [_across(*OBSTACLES_X)]


def _stairs(rng: np.random.Generator, difficulty: float) -> Blocks:
    """Four steps up and four down, 2 to 12 cm high."""
    x, end = OBSTACLES_X
    rise, num_steps = 0.02 + 0.1 * difficulty, 4
    depths = rng.uniform(0.27, 0.34, 2 * num_steps)
    tops = rise * np.array([*range(1, num_steps + 1), *range(num_steps, 0, -1)])
    blocks = []
    for depth, top in zip(depths, tops, strict=True):
        blocks.append(_across(x, x + depth, top))
        x += depth
    return [*blocks, _across(x, end)]


def _gaps(rng: np.random.Generator, difficulty: float) -> Blocks:
    """Ground 0.4 to 0.8 m long between gaps of 5 to 20 cm."""
    x, end = OBSTACLES_X
    blocks = []
    x += rng.uniform(0, 0.4)
    blocks.append(_across(OBSTACLES_X[0], x))
    while x < end - 0.5:
        x += (0.05 + 0.15 * difficulty) * rng.uniform(0.8, 1.0)
        length = rng.uniform(0.4, 0.8)
        blocks.append(_across(x, min(x + length, end)))
        x += length
    return [*blocks, _across(min(x, end), end)]


def _stones(rng: np.random.Generator, difficulty: float) -> Blocks:
    """Rows of stones, 30 to 18 cm wide and at most 4 to 12 cm apart, each row shifted, each stone higher or lower."""
    start, end = OBSTACLES_X
    size, gap = 0.30 - 0.12 * difficulty, 0.04 + 0.08 * difficulty
    num_rows = int(np.ceil((end - start - gap) / (size + gap)))
    pitch = (end - start + size) / (num_rows + 1)  # so that the last row ends a gap before the ground goes on
    blocks = []
    for x in end - pitch * np.arange(num_rows, 0, -1):
        y = -HALF_WIDTH_M + rng.uniform(0, size)
        while y < HALF_WIDTH_M - size:
            blocks.append((x, x + size, y, y + size, 0.03 * difficulty * rng.uniform(-1, 1)))
            y += size + gap
    return blocks


def _rungs(rng: np.random.Generator, difficulty: float) -> Blocks:
    """Bars across the course, 16 to 8 cm wide, with 3 to 16 cm of nothing between them."""
    x, end = OBSTACLES_X
    width, gap = 0.16 - 0.08 * difficulty, 0.06 + 0.10 * difficulty
    blocks = []
    while (x := x + gap * rng.uniform(0.5, 1.0)) < end:
        blocks.append(_across(x, min(x + width, end)))
        x += width
    return blocks


LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level("flat", 3, {"flat": _flat}),
        Level("stairs", 11, {"stairs": _stairs}),
        Level("gaps", 10, {"gaps": _gaps}),
        Level("rungs", 20, {"rungs": _rungs}),
        Level("stones", 52, {"stones": _stones}),
        Level("mixed", 52, {"stairs": _stairs, "gaps": _gaps, "rungs": _rungs, "stones": _stones}),
    )
}
"""From easy to hard; each but the first from nearly flat (difficulty 0) on."""


def draw_course(level: Level, difficulty: tuple[float, float], rng: np.random.Generator) -> Course:
    """Draw a course.

    Args:
        level: What to draw.
        difficulty: The range, within 0 to 1, to draw this course's difficulty from.
        rng: Where chance comes from.
    """
    obstacles = str(rng.choice(list(level.obstacles)))
    drawn_difficulty = rng.uniform(*difficulty)
    start, end = _across(START_X, OBSTACLES_X[0]), _across(OBSTACLES_X[1], END_X)
    blocks = [start, *level.obstacles[obstacles](rng, drawn_difficulty), end]
    x_min, x_max, y_min, y_max, top = np.transpose(blocks)
    height = top + PIT_M
    boxes = np.zeros((level.num_boxes, 7))
    boxes[:, 2] = -2 * PIT_M  # out of sight, below the ground of the pit
    boxes[:, 3:6] = 0.1
    boxes[: len(blocks), :6] = np.transpose(
        [
            (x_min + x_max) / 2,
            (y_min + y_max) / 2,
            top - height / 2,
            (x_max - x_min) / 2,
            (y_max - y_min) / 2,
            height / 2,
        ]
    )
    return Course(obstacles, float(drawn_difficulty), boxes, _heights(blocks))


def _heights(blocks: Blocks) -> NDArray[np.float32]:
    heights = np.full(GRID_SHAPE, -PIT_M, np.float32)
    corner = np.array([START_X, START_X, -HALF_WIDTH_M, -HALF_WIDTH_M])
    for *edges, top in blocks:
        x_min, x_max, y_min, y_max = np.round((edges - corner) / _CELL_M).astype(int)
        heights[x_min:x_max, y_min:y_max] = top
    return heights


def heights_at(heights: NDArray[np.float32], which: NDArray[np.int64], points: Floats) -> NDArray[np.float32]:
    """Height of the ground below points, to the cell of 2 cm.

    Args:
        heights: (m, *GRID_SHAPE): the `heights` of m courses.
        which: (n,): the course in which each row of points lies.
        points: (n, ..., 2) in metres; beyond the course's edges the nearest cell counts.

    Returns:
        (n, ...) in metres.
    """
    column = np.clip((points[..., 0] - START_X) / _CELL_M, 0, GRID_SHAPE[0] - 1).astype(np.int64)
    row = np.clip((points[..., 1] + HALF_WIDTH_M) / _CELL_M, 0, GRID_SHAPE[1] - 1).astype(np.int64)
    return heights[which.reshape(-1, *[1] * (points.ndim - 2)), column, row]
