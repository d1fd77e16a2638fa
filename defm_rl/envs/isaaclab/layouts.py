"""The worlds of the navigation task: drawn, looked up and collided with for all environments at once."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

GOAL_X_M, HALF_WIDTH_M, HALF_GAP_M, HALF_THICKNESS_M, ROVER_RADIUS_M = 5.5, 2.0, 0.6, 0.1, 0.2
BOUNDS_M = (-1.0, 6.5)
"""Where the arena begins and ends along x; across, it is as wide as `HALF_WIDTH_M` says to either side."""

WALLS_X_M = (GOAL_X_M / 3, GOAL_X_M * 2 / 3)
_CLEARANCE_M = 0.1
_FARTHEST_GAP_M = 1.3
_POINTS_PER_GAP = 5

DRAWN = -1
"""Stands for the number of a world that has none."""


class Layouts:
    """Worlds with two walls across an arena, each with one gap that the straight line to the goal misses.

    Args:
        num_envs: Number of worlds.
        device: Where they are.

    Attributes:
        start: (N, 3), x and y in metres, yaw in radians.
        goal: (N, 2) in metres.
        walls: (N, 2, 2), x of each wall and y of its gap, in metres.
        numbers: (N,), each world's number, or `DRAWN`.
    """

    def __init__(self, num_envs: int, device: str | torch.device) -> None:
        self.start = torch.zeros(num_envs, 3, device=device)
        self.goal = torch.zeros(num_envs, 2, device=device)
        self.walls = torch.zeros(num_envs, len(WALLS_X_M), 2, device=device)
        self.numbers = torch.full((num_envs,), DRAWN, device=device)
        # Points in each gap, and how far it is from them to the goal.
        self._points = torch.zeros(num_envs, len(WALLS_X_M), _POINTS_PER_GAP, 2, device=device)
        self._to_go_m = torch.zeros(num_envs, len(WALLS_X_M), _POINTS_PER_GAP, device=device)
        self.draw(torch.arange(num_envs, device=device))

    def draw(self, ids: Tensor, numbers: Sequence[int] = ()) -> None:
        """Draws new worlds for some environments.

        Args:
            ids: The environments, (n,).
            numbers: Each of the first environments gets the world that follows from its number alone. The others' are
                drawn from PyTorch's global generator.
        """
        draws = torch.rand(len(ids), 3 + 2 * len(WALLS_X_M), device=ids.device)
        self.numbers[ids] = DRAWN
        if numbers:
            named = [np.random.default_rng(number).random(draws.shape[1], np.float32) for number in numbers]
            draws[: len(numbers)] = torch.as_tensor(np.stack(named), device=ids.device)
            self.numbers[ids[: len(numbers)]] = torch.tensor(numbers, device=ids.device)
        columns = iter(draws.unbind(1))

        def uniform(low: float, high: float) -> Tensor:
            return low + (high - low) * next(columns)

        start_y, goal_y = uniform(-1.5, 1.5), uniform(-1.5, 1.5)
        walls = []
        for x in WALLS_X_M:
            wall_x = x + uniform(-0.3, 0.3)
            line_y = start_y + (goal_y - start_y) * wall_x / GOAL_X_M
            # Uniformly over what is left of the wall on either side of the line.
            right = (line_y - HALF_GAP_M + _FARTHEST_GAP_M).clamp(min=0)
            left = (_FARTHEST_GAP_M - line_y - HALF_GAP_M).clamp(min=0)
            along = uniform(0, 1) * (right + left)
            gap_y = torch.where(along < right, along - _FARTHEST_GAP_M, line_y + HALF_GAP_M + along - right)
            walls.append(torch.stack([wall_x, gap_y], 1))
        goal_x = torch.full_like(goal_y, GOAL_X_M)
        yaw = torch.atan2(goal_y - start_y, goal_x) + uniform(-0.3, 0.3)
        self.start[ids] = torch.stack([torch.zeros_like(start_y), start_y, yaw], 1)
        self.goal[ids] = torch.stack([goal_x, goal_y], 1)
        self.walls[ids] = torch.stack(walls, 1)
        self._measure(ids)

    def _measure(self, ids: Tensor) -> None:
        """How far it is to the goal from each of a few points in each gap, through the gaps ahead."""
        half = HALF_GAP_M - ROVER_RADIUS_M - _CLEARANCE_M
        offsets = torch.linspace(-half, half, _POINTS_PER_GAP, device=ids.device)
        points = self.walls[ids, :, None].repeat(1, 1, _POINTS_PER_GAP, 1)
        points[..., 1] += offsets
        to_go_m = (points[:, -1] - self.goal[ids, None]).norm(dim=-1)
        per_wall = [to_go_m]
        for wall in reversed(range(len(WALLS_X_M) - 1)):
            way_m = (points[:, wall, :, None] - points[:, wall + 1, None]).norm(dim=-1)
            to_go_m = (way_m + to_go_m[:, None]).amin(-1)
            per_wall.insert(0, to_go_m)
        self._points[ids], self._to_go_m[ids] = points, torch.stack(per_wall, 1)

    def to_go_m(self, position: Tensor) -> Tensor:
        """Metres from (N, 2) positions to the goals, along the shortest way through the gaps that lie ahead."""
        ahead = self.walls[..., 0] > position[:, :1]
        way_m = (position[:, None, None] - self._points).norm(dim=-1)
        through = (way_m + self._to_go_m).amin(-1)
        to_go_m = (self.goal - position).norm(dim=-1)
        for wall in reversed(range(len(WALLS_X_M))):
            to_go_m = torch.where(ahead[:, wall], through[:, wall], to_go_m)
        return to_go_m

    def collides(self, position: Tensor) -> Tensor:
        """Whether the rovers at (N, 2) positions touch a wall or the edge of the arena."""
        x, y = position[:, :1], position[:, 1:]
        across_m = ((x - self.walls[..., 0]).abs() - HALF_THICKNESS_M).clamp(min=0)
        beside_m = (HALF_GAP_M - (y - self.walls[..., 1]).abs()).clamp(min=0)
        touches = (torch.hypot(across_m, beside_m) < ROVER_RADIUS_M).any(1)
        x, y = position.unbind(1)
        outside = (x < BOUNDS_M[0] + ROVER_RADIUS_M) | (x > BOUNDS_M[1] - ROVER_RADIUS_M)
        return touches | outside | (y.abs() > HALF_WIDTH_M - ROVER_RADIUS_M)
