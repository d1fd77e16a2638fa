"""Worlds for navigation: levels, layouts drawn from a seed, and geodesic distances in them."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy  # whose parts are imported when they are asked for
from numpy.typing import NDArray

Floats = NDArray[np.float64]

WALL_THICKNESS_M = 0.2
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class Layout:
    """One episode's world, as seen from above. Metres and radians.

    Attributes:
        seed: What it was drawn from.
        bounds: (x_min, y_min, x_max, y_max) of the arena's inside.
        boxes: (n, 5): x, y, half length in x, half length in y, yaw.
        start: (3,): x, y, yaw.
        goal: (2,): x, y.
        distances: (rows, columns): geodesic distance to the goal on the nodes of the level's `Grid`.
    """

    seed: int
    bounds: tuple[float, float, float, float]
    boxes: Floats
    start: Floats
    goal: Floats
    distances: Floats


Drawn = tuple[list[tuple[float, float, float, float, float]], tuple[float, float, float], tuple[float, float]]


@dataclass(frozen=True)
class Level:
    """A family of layouts with the same arena and the same number of boxes.

    Attributes:
        name: How it is asked for.
        bounds: (x_min, y_min, x_max, y_max) of the arena's inside, in metres.
        num_boxes: Boxes in every layout.
        max_episode_steps: Control steps before an episode is cut off.
        draw: Draws boxes, start and goal from a generator; they need not leave a way through.
    """

    name: str
    bounds: tuple[float, float, float, float]
    num_boxes: int
    max_episode_steps: int
    draw: Callable[[np.random.Generator], Drawn]


def _walls(rng: np.random.Generator, goal_x: float, walls_x: tuple[float, ...]) -> Drawn:
    """Walls across the arena, each with one gap that the straight line to the goal misses."""
    half_width, half_gap = 2.0, 0.6
    start_y, goal_y = rng.uniform(-1.5, 1.5, 2)
    boxes = []
    for x in walls_x:
        x += rng.uniform(-0.3, 0.3)
        line_y = start_y + (goal_y - start_y) * x / goal_x
        gap_y = line_y
        while abs(gap_y - line_y) < half_gap:
            gap_y = rng.uniform(-1.3, 1.3)
        for low, high in ((-half_width, gap_y - half_gap), (gap_y + half_gap, half_width)):
            boxes.append((x, (low + high) / 2, WALL_THICKNESS_M / 2, (high - low) / 2, 0.0))
    yaw = np.arctan2(goal_y - start_y, goal_x) + rng.uniform(-0.3, 0.3)
    return boxes, (0.0, start_y, yaw), (goal_x, goal_y)


def _corridors(rng: np.random.Generator) -> Drawn:
    """A maze: the walls that a random spanning tree over 5 x 3 cells leaves standing."""
    columns, rows, cell_m = 5, 3, 1.6
    group = list(range(columns * rows))  # cells joined so far carry the same number
    passages = [(c, c + 1) for c in range(columns * rows) if (c + 1) % columns]
    passages += [(c, c + columns) for c in range(columns * (rows - 1))]
    boxes = []
    for index in rng.permutation(len(passages)):
        here, there = passages[index]
        if group[here] != group[there]:
            group = [group[here] if g == group[there] else g for g in group]
            continue
        (row, column), side_by_side = divmod(here, columns), there == here + 1
        x, y = cell_m * (column + (1.0 if side_by_side else 0.5)), cell_m * (row + (0.5 if side_by_side else 1.0))
        long, thin = cell_m / 2, WALL_THICKNESS_M / 2
        boxes.append((x, y, thin, long, 0.0) if side_by_side else (x, y, long, thin, 0.0))
    start_y, goal_y = cell_m * (rng.integers(rows, size=2) + 0.5) + rng.uniform(-0.2, 0.2, 2)
    goal_x = cell_m * (columns - 0.5)
    return boxes, (cell_m / 2, start_y, rng.uniform(-np.pi, np.pi)), (goal_x, goal_y)


def _forest(rng: np.random.Generator) -> Drawn:
    """Boxes of many sizes, turned any way, anywhere between start and goal."""
    start_y, goal_y = rng.uniform(-2.5, 2.5, 2)
    boxes = [
        (rng.uniform(1.0, 6.0), rng.uniform(-3.0, 3.0), *rng.uniform(0.15, 0.5, 2), rng.uniform(0.0, np.pi))
        for _ in range(14)
    ]
    yaw = np.arctan2(goal_y - start_y, 7.0) + rng.uniform(-0.3, 0.3)
    return boxes, (0.0, start_y, yaw), (7.0, goal_y)


LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level("open", (-1.0, -2.0, 6.5, 2.0), 0, 60, lambda rng: _walls(rng, 5.5, ())),
        Level("one_wall", (-1.0, -2.0, 5.0, 2.0), 2, 60, lambda rng: _walls(rng, 4.0, (2.0,))),
        Level("two_walls", (-1.0, -2.0, 6.5, 2.0), 4, 60, lambda rng: _walls(rng, 5.5, (5.5 / 3, 11 / 3))),
        Level("boxes", (-1.0, -3.0, 8.0, 3.0), 14, 80, _forest),
        Level("corridors", (0.0, 0.0, 8.0, 4.8), 8, 150, _corridors),
    )
}
"""From easy to hard."""


class Grid:
    """Nodes 0.1 m apart over an arena, with everything about shortest paths that does not depend on the layout.

    A node has 16 neighbours (those of a chess king and of a knight), so that a path is at most 2.8 % longer than the
    real one. No move jumps over a blocked strip, which is two margins wide at least.

    Args:
        bounds: (x_min, y_min, x_max, y_max) of the arena in metres.
        margin_m: Nodes nearer than this to a box or to the arena's edge are blocked: the robot's radius and what it
            should keep free beside it.
    """

    spacing_m = 0.1

    def __init__(self, bounds: tuple[float, float, float, float], margin_m: float) -> None:
        self.bounds = bounds
        self.margin_m = margin_m
        self._x = np.arange(bounds[0], bounds[2] + 1e-6, self.spacing_m)
        self._y = np.arange(bounds[1], bounds[3] + 1e-6, self.spacing_m)
        self.shape = (len(self._y), len(self._x))
        to_edge_x = np.minimum(self._x - bounds[0], bounds[2] - self._x)
        to_edge_y = np.minimum(self._y - bounds[1], bounds[3] - self._y)
        self._clear_of_edge = np.minimum(to_edge_x, to_edge_y[:, None]) >= margin_m
        self._connect()

    def _connect(self) -> None:
        """Lay out the graph as a sparse matrix, with one more row for the goal, which lies between the nodes."""
        rows, columns = self.shape
        index = np.pad(np.arange(rows * columns).reshape(rows, columns), 2, constant_values=-1)

        moves = [(r, c) for r in range(-2, 3) for c in range(-2, 3) if {abs(r), abs(c)} in ({0, 1}, {1}, {1, 2})]
        targets = np.stack(
            [index[2 + down : 2 + down + rows, 2 + right : 2 + right + columns].ravel() for down, right in moves],
            axis=1,
        )
        inside = targets >= 0
        _, move = np.nonzero(inside)
        self._targets = np.append(targets[inside], np.zeros(4)).astype(np.int32)
        self._costs = np.append(self.spacing_m * np.hypot(*np.transpose(moves))[move], np.zeros(4))
        self._row_starts = np.cumsum([0, *inside.sum(axis=1), 4]).astype(np.int32)

    def distances(self, boxes: Floats, start: Floats, goal: Floats) -> Floats | None:
        """Distance from every node to the goal along the shortest free path.

        Args:
            boxes: (n, 5) as in `Layout`.
            start: (2,) in metres.
            goal: (2,) in metres.

        Returns:
            (rows, columns) in metres, or None if no path leads from start to goal. Blocked and unreachable nodes get
            the value of the nearest reachable one and the way there, so that the field stays finite and smooth where
            a robot scrapes along an obstacle or squeezes behind one.
        """
        clear = self._clear(boxes).ravel()
        around_start, around_goal = self._corners(start), self._corners(goal)
        if not (clear[around_start].all() and clear[around_goal].all()):
            return None
        self._targets[-4:] = around_goal
        costs = self._costs + np.where(clear, 0.0, np.inf).take(self._targets)
        rows, columns = np.unravel_index(around_goal, self.shape)
        costs[-4:] = np.hypot(self._x[columns] - goal[0], self._y[rows] - goal[1])
        graph = scipy.sparse.csr_array((costs, self._targets, self._row_starts), shape=(clear.size + 1, clear.size + 1))
        flat: Floats = scipy.sparse.csgraph.dijkstra(graph, indices=[clear.size])[0, :-1]
        if not np.isfinite(flat[around_start]).all():
            return None
        distances = flat.reshape(self.shape)
        rows, columns = scipy.ndimage.distance_transform_edt(
            np.isinf(distances), return_distances=False, return_indices=True
        )
        way = np.hypot(self._x[columns] - self._x, self._y[rows] - self._y[:, None])
        return distances[rows, columns] + way

    def lookup(self, fields: Floats, which: NDArray[np.int64], points: Floats) -> Floats:
        """Read fields between nodes (bilinear).

        Args:
            fields: (m, rows, columns).
            which: (n,): the field in which to read each row of points.
            points: (n, ..., 2) in metres; outside the arena its edge counts.

        Returns:
            (n, ...).
        """
        (row, column), (fy, fx) = self._cell(points)
        which = which.reshape(-1, *[1] * (points.ndim - 2))
        low = fields[which, row, column] * (1 - fx) + fields[which, row, column + 1] * fx
        high = fields[which, row + 1, column] * (1 - fx) + fields[which, row + 1, column + 1] * fx
        result: Floats = low * (1 - fy) + high * fy
        return result

    def _cell(self, points: Floats) -> tuple[tuple[NDArray[np.int64], ...], tuple[Floats, ...]]:
        """(row, column) of the cells that hold points, and where in them, from 0 to 1."""
        cells, fractions = [], []
        for axis, count in ((1, self.shape[0]), (0, self.shape[1])):
            position = np.clip((points[..., axis] - self.bounds[axis]) / self.spacing_m, 0, count - 1)
            cell = np.minimum(position.astype(np.int64), count - 2)
            cells.append(cell)
            fractions.append(position - cell)
        return tuple(cells), tuple(fractions)

    def _corners(self, point: Floats) -> NDArray[np.int64]:
        """The four nodes around a point inside the arena, as flat indices."""
        column = min(int((point[0] - self.bounds[0]) / self.spacing_m), self.shape[1] - 2)
        row = min(int((point[1] - self.bounds[1]) / self.spacing_m), self.shape[0] - 2)
        first = row * self.shape[1] + column
        return first + np.array([0, 1, self.shape[1], self.shape[1] + 1])

    def _clear(self, boxes: Floats) -> NDArray[np.bool_]:
        """Which nodes keep the margin to every box and to the arena's edge."""
        clear = self._clear_of_edge.copy()
        for x, y, half_x, half_y, yaw in boxes:
            reach = np.hypot(half_x, half_y) + self.margin_m  # no need to look at nodes farther away
            columns = slice(*np.searchsorted(self._x, (x - reach, x + reach)))
            rows = slice(*np.searchsorted(self._y, (y - reach, y + reach)))
            dx, dy = self._x[columns] - x, self._y[rows, None] - y
            if yaw:
                dx, dy = dx * np.cos(yaw) + dy * np.sin(yaw), dy * np.cos(yaw) - dx * np.sin(yaw)
            along, across = np.maximum(np.abs(dx) - half_x, 0), np.maximum(np.abs(dy) - half_y, 0)
            clear[rows, columns] &= along**2 + across**2 >= self.margin_m**2
        return clear


def draw_layout(level: Level, grid: Grid, seed: int) -> Layout:
    """The layout of a seed: the first of the seed's sequence that leaves a path from start to goal.

    Args:
        level: What to draw.
        grid: The grid over the level's arena.
        seed: Any integer from 0 on.

    Raises:
        RuntimeError: No draw leaves a path; the grid's margin is too wide for the level.
    """
    rng = np.random.default_rng(seed)
    for _ in range(_MAX_DRAWS):
        drawn_boxes, drawn_start, drawn_goal = level.draw(rng)
        boxes, start, goal = np.reshape(drawn_boxes, (-1, 5)), np.array(drawn_start), np.array(drawn_goal)
        distances = grid.distances(boxes, start[:2], goal)
        if distances is not None:
            return Layout(seed, level.bounds, boxes, start, goal, distances)
    raise RuntimeError(f"level {level.name!r}: none of {_MAX_DRAWS} draws leaves a path {2 * grid.margin_m:.2f} m wide")
