"""Layouts and geodesic distances."""

import numpy as np
import pytest

from defm_rl.envs.layouts import LEVELS, Grid, draw_layout
from defm_rl.names import look_up

MARGIN_M = 0.3
ALL_LEVELS = pytest.mark.parametrize("name", LEVELS)


@pytest.fixture(scope="module")
def grids():
    return {name: Grid(level.bounds, MARGIN_M) for name, level in LEVELS.items()}


def read(grid, distances, point):
    return grid.lookup(distances[None], np.array([0]), point[None])[0]


@ALL_LEVELS
def test_a_seed_always_gives_the_same_layout_and_another_seed_another(name, grids):
    first, again, other = (draw_layout(LEVELS[name], grids[name], seed) for seed in (7, 7, 8))
    np.testing.assert_array_equal(first.boxes, again.boxes)
    np.testing.assert_array_equal(first.distances, again.distances)
    np.testing.assert_array_equal(first.start, again.start)
    assert not np.array_equal(first.start, other.start)


@ALL_LEVELS
def test_every_layout_has_the_levels_boxes_and_a_way_through(name, grids):
    level, grid = LEVELS[name], grids[name]
    for seed in range(20):
        layout = draw_layout(level, grid, seed)
        assert layout.boxes.shape == (level.num_boxes, 5)
        assert np.isfinite(layout.distances).all()
        to_go = read(grid, layout.distances, layout.start[:2])
        beeline = np.hypot(*(layout.start[:2] - layout.goal))
        assert beeline * 0.999 <= to_go < 25
        assert read(grid, layout.distances, layout.goal) < 0.06


@pytest.mark.parametrize("name", ["one_wall", "two_walls"])
def test_walls_stand_in_the_straight_way(name, grids):
    for seed in range(50):
        layout = draw_layout(LEVELS[name], grids[name], seed)
        line = np.linspace(layout.start[:2], layout.goal, 500)
        inside = np.abs(line[:, None] - layout.boxes[:, :2]) < layout.boxes[:, 2:4]
        assert inside.all(axis=-1).any()


def test_the_way_around_a_wall_is_as_long_as_it_is():
    grid = Grid((0.0, 0.0, 6.0, 4.0), 0.2)
    wall = np.array([[3.0, 1.4, 0.1, 1.4, 0.0]])  # up to y = 2.8; its margin's corners lie at x = 2.8 and 3.2
    start, goal = np.array([1.03, 1.07]), np.array([5.02, 1.01])
    distances = grid.distances(wall, start, goal)
    around = np.hypot(2.8 - start[0], 3.0 - start[1]) + 0.4 + np.hypot(goal[0] - 3.2, 3.0 - goal[1])
    # The margin's corners are round, so the way is a little shorter; the grid's sixteen directions make it longer.
    assert 0.97 * around < read(grid, distances, start) < 1.03 * around


def test_a_turned_box_blocks_where_it_is():
    grid = Grid((0.0, 0.0, 4.0, 2.0), 0.2)
    start, goal = np.array([0.5, 1.0]), np.array([3.5, 1.0])
    across = np.array([[2.0, 1.0, 1.0, 0.1, np.pi / 2]])
    assert grid.distances(across, start, goal) is None
    along = np.array([[2.0, 1.0, 1.0, 0.1, 0.0]])
    assert grid.distances(along, start, goal) is not None


def test_distances_go_on_smoothly_into_the_margin():
    grid = Grid((0.0, 0.0, 6.0, 4.0), 0.3)
    distances = grid.distances(np.empty((0, 5)), np.array([1.0, 2.0]), np.array([5.0, 2.0]))
    points = np.column_stack([np.full(40, 3.0), np.linspace(2.0, 3.95, 40)])
    values = grid.lookup(distances[None], np.zeros(40, int), points)
    assert (np.abs(np.diff(values)) < 0.06).all()  # steps of 5 cm
    assert (np.diff(values) >= -1e-9).all()


def test_unknown_levels_and_impossible_margins_are_errors():
    with pytest.raises(ValueError, match=r"did you mean 'two_walls'\?.*corridors"):
        look_up("level", "two_wall", LEVELS)
    level = LEVELS["two_walls"]
    with pytest.raises(RuntimeError, match="leaves a path"):
        draw_layout(level, Grid(level.bounds, 0.7), 0)
