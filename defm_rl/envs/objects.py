"""Things to grasp: levels, and scenes drawn from a seed."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

SHAPES = ("box", "cylinder", "ellipsoid", "hammer")

AREA_M = ((0.4, 0.6), (-0.15, 0.15))
"""Where objects lie: the bounds in x and y of their centres, from the arm's base. 20 x 30 cm."""

_DENSITY_KG_M3 = (200.0, 800.0)
_FRICTION = (0.6, 1.2)
_GAP_M = 0.03
_MAX_DRAWS = 1000


@dataclass(frozen=True)
class Object:
    """One object. Metres, radians, kilograms; axes are the object's own.

    It is one primitive, or two: a hammer is a box with another one across its end. Its origin is its centre of mass,
    and its axes are the principal ones.

    Attributes:
        shape: One of `SHAPES`.
        half_sizes: (2, 3): half extents of its parts along x, y and z; zeros where there is no second part.
        offsets: (2, 3): centres of its parts.
        mass_kg: Its mass.
        inertia: (3,): moments of inertia about x, y and z.
        friction: Sliding friction against the fingers and the table.
        position: (3,): where it lies.
        yaw: How it is turned.
    """

    shape: str
    half_sizes: Floats
    offsets: Floats
    mass_kg: float
    inertia: Floats
    friction: float
    position: Floats
    yaw: float

    @property
    def half_extents(self) -> Floats:
        """(3,): half the size of the box around it."""
        corners = np.stack([self.offsets - self.half_sizes, self.offsets + self.half_sizes])
        extents: Floats = (corners.max(axis=(0, 1)) - corners.min(axis=(0, 1))) / 2
        return extents

    @property
    def radius_m(self) -> float:
        """How far it reaches from its origin, seen from above."""
        return float(np.hypot(*(np.abs(self.offsets) + self.half_sizes)[:, :2].T).max())


@dataclass(frozen=True)
class Level:
    """A family of scenes.

    Attributes:
        name: How it is asked for.
        num_objects: Objects on the table.
        shapes: What they may be; "cube" is a box of 4 cm.
        max_episode_steps: Control steps before an episode is cut off.
    """

    name: str
    num_objects: int
    shapes: tuple[str, ...]
    max_episode_steps: int


LEVELS: dict[str, Level] = {
    level.name: level
    for level in (
        Level("cube", 1, ("cube",), 50),
        Level("shapes", 1, SHAPES, 50),
        Level("clutter", 3, SHAPES, 60),
    )
}
"""From easy to hard."""


def draw_scene(level: Level, seed: int) -> list[Object]:
    """The objects of a seed, lying apart from each other.

    Args:
        level: What to draw.
        seed: Any integer from 0 on.
    """
    rng = np.random.default_rng(seed)
    objects: list[Object] = []
    for _ in range(_MAX_DRAWS):
        if len(objects) == level.num_objects:
            return objects
        candidate = _draw_object(rng, str(rng.choice(level.shapes)))
        if all(
            np.linalg.norm(candidate.position[:2] - other.position[:2]) > candidate.radius_m + other.radius_m + _GAP_M
            for other in objects
        ):
            objects.append(candidate)
        elif rng.random() < 0.1:  # those that lie there may leave no room
            objects = []
    raise RuntimeError(
        f"level {level.name!r}: no scene with room for {level.num_objects} objects after {_MAX_DRAWS} draws"
    )


def _draw_object(rng: np.random.Generator, shape: str) -> Object:
    half_sizes, offsets = np.zeros((2, 3)), np.zeros((2, 3))
    # Every shape is narrow enough in y (below 7 cm) for a gripper that opens 8 cm, and low enough to be held at its
    # middle without touching the palm.
    if shape == "cube":
        half_sizes[0] = 0.02
    elif shape == "box":
        half_sizes[0] = rng.uniform((0.015, 0.012, 0.015), (0.05, 0.03, 0.04))
    elif shape == "cylinder":
        radius = rng.uniform(0.015, 0.032)
        half_sizes[0] = radius, radius, rng.uniform(0.015, 0.04)
    elif shape == "ellipsoid":
        length, width = rng.uniform((0.032, 0.02), (0.045, 0.032))
        half_sizes[0] = length, width, rng.uniform(0.015, width)  # lying flat, as others do not stay
    else:
        height = rng.uniform(0.012, 0.02)
        handle, head = rng.uniform((0.04, 0.008), (0.06, 0.015)), rng.uniform((0.01, 0.02), (0.015, 0.033))
        half_sizes[:] = (*handle, height), (*head, height)
        offsets[1, 0] = handle[0] + head[0]
    volumes = _VOLUME[shape] * half_sizes.prod(axis=1)
    offsets -= volumes @ offsets / volumes.sum()
    masses = volumes * rng.uniform(*_DENSITY_KG_M3)
    squares = masses[:, None] * (half_sizes**2 * _GYRATION[shape] + offsets**2)
    inertia = (squares.sum(axis=1, keepdims=True) - squares).sum(axis=0)
    (x_low, x_high), (y_low, y_high) = AREA_M
    return Object(
        shape="box" if shape == "cube" else shape,
        half_sizes=half_sizes,
        offsets=offsets,
        mass_kg=float(masses.sum()),
        inertia=inertia,
        friction=rng.uniform(*_FRICTION),
        position=np.array([rng.uniform(x_low, x_high), rng.uniform(y_low, y_high), half_sizes[0, 2]]),
        yaw=rng.uniform(-np.pi, np.pi),
    )


# Of solids with half extents a, b, c: the volume over abc; the mean square of each coordinate over its half extent's.
_VOLUME = {"cube": 8.0, "box": 8.0, "cylinder": 2 * np.pi, "ellipsoid": 4 * np.pi / 3, "hammer": 8.0}
_GYRATION = {
    "cube": np.full(3, 1 / 3),
    "box": np.full(3, 1 / 3),
    "cylinder": np.array([1 / 4, 1 / 4, 1 / 3]),
    "ellipsoid": np.full(3, 1 / 5),
    "hammer": np.full(3, 1 / 3),
}
