"""Depth of simple scenes with labels for free: what object stands there, how far it is, where the wall's gap is."""

import itertools
from dataclasses import dataclass

import mujoco
import numpy as np
from numpy.typing import NDArray

from defm_rl.envs.rendering import look_once

Ints = NDArray[np.int64]

OBJECTS = ("box", "ball", "cylinder", "table", "stairs", "ladder")
DISTANCES_M = (1.0, 1.6, 2.2, 2.8, 3.4, 4.0)
"""Edges of the bins of the object's distance."""
GAPS = ("far left", "left", "ahead", "right", "far right")
SURFACES = ("floor", "wall", "object", "beyond the gap")

UNKNOWN = 255
"""The class of pixels that see nothing."""

_FOVY_DEG = 60.0
_GAP_RAD = np.radians(11.0)  # between the middles of neighbouring bins
_APART_RAD = np.radians(14.0)  # what the object keeps from the gap, so as not to stand before it
_WALL_HEIGHT_M = 2.5
_FAR_M = 20.0


@dataclass(frozen=True)
class LabelledScenes:
    """Scenes seen ideally.

    Attributes:
        depth: (N, H, W) float32 metres, holes 0.
        labels: By task (object, distance, gap) the (N,) class of each frame.
        classes: By task the names of its classes.
        masks: (N, H, W): of each pixel the surface, an index of `SURFACES`, or `UNKNOWN`.
    """

    depth: NDArray[np.float32]
    labels: dict[str, Ints]
    classes: dict[str, tuple[str, ...]]
    masks: NDArray[np.uint8]


def labelled_scenes(count: int, size: tuple[int, int] = (96, 128), *, seed: int = 0) -> LabelledScenes:
    """Draws scenes: one object on a floor, before a wall with a gap, behind which another wall stands.

    Every class is as frequent as any other, and tasks do not depend on each other. Where the camera is, where it looks,
    how far the walls are and how the object is turned and how large it is are drawn, too.

    Args:
        count: How many.
        size: Height and width of the images in pixels.
        seed: Of everything; scenes of other seeds are others.
    """
    rng = np.random.default_rng(seed)
    distances = tuple(f"{a:g} to {b:g} m" for a, b in itertools.pairwise(DISTANCES_M))
    classes = {"object": OBJECTS, "distance": distances, "gap": GAPS}
    labels = {task: rng.permutation(np.arange(count) % len(names)) for task, names in classes.items()}
    depth = np.empty((count, *size), np.float32)
    masks = np.empty((count, *size), np.uint8)
    for index in range(count):
        scene = {task: int(of_frames[index]) for task, of_frames in labels.items()}
        depth[index], masks[index] = _drawn(scene, size, rng)
    return LabelledScenes(depth, labels, classes, masks)


def _drawn(
    scene: dict[str, int], size: tuple[int, int], rng: np.random.Generator
) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
    near, far = DISTANCES_M[scene["distance"] : scene["distance"] + 2]
    distance = rng.uniform(near, far)
    # To the left is positive.
    gap = ((len(GAPS) - 1) / 2 - scene["gap"] + rng.uniform(-0.3, 0.3)) * _GAP_RAD
    bearing = gap
    while abs(bearing - gap) < _APART_RAD:
        bearing = rng.uniform(-0.4, 0.4)
    spec = mujoco.MjSpec()
    spec.visual.map.zfar, spec.visual.map.znear, spec.stat.extent = _FAR_M, 0.01, 1.0
    world = spec.worldbody
    pitch = rng.uniform(0.0, 0.35)
    right, up = [0.0, -1.0, 0.0], [np.sin(pitch), 0.0, np.cos(pitch)]  # it looks along x, and a little down
    world.add_camera(name="eye", pos=[0.0, 0.0, rng.uniform(0.5, 1.1)], xyaxes=[*right, *up], fovy=_FOVY_DEG)
    world.add_geom(name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[20, 20, 0.1])
    wall, half_gap = rng.uniform(4.6, 6.0), rng.uniform(0.4, 0.6)
    _add_walls(world, wall, wall * np.tan(gap), half_gap, rng.uniform(1.5, 3.0))
    half_yaw = rng.uniform(-np.pi, np.pi) / 2
    place = [distance * np.cos(bearing), distance * np.sin(bearing), 0.0]
    body = world.add_body(pos=place, quat=[np.cos(half_yaw), 0.0, 0.0, np.sin(half_yaw)])
    _add_object(body, OBJECTS[scene["object"]], rng.uniform(0.8, 1.2))
    model = spec.compile()
    seen, geoms = look_once(model, 0, size)
    surfaces = np.array([_SURFACE_OF[model.geom(index).name.partition(" ")[0]] for index in range(model.ngeom)])
    return seen, np.where(geoms >= 0, surfaces[geoms], UNKNOWN).astype(np.uint8)


_SURFACE_OF = {"floor": 0, "wall": 1, "part": 2, "beyond": 3}


def _add_walls(world: mujoco.MjsBody, x: float, gap_y: float, half_gap: float, behind: float) -> None:
    half_height = _WALL_HEIGHT_M / 2
    for name, low, high in (("wall right", -12.0, gap_y - half_gap), ("wall left", gap_y + half_gap, 12.0)):
        _add_box(world, name, (x, (low + high) / 2, half_height), (0.05, (high - low) / 2, half_height))
    _add_box(world, "beyond", (x + behind, 0.0, half_height), (0.05, 12.0, half_height))


def _add_object(body: mujoco.MjsBody, kind: str, scale: float) -> None:
    """Of about half a metre; every kind is about as wide and as high as the others."""
    radius, height = 0.28 * scale, 0.56 * scale
    if kind == "box":
        _add_box(body, "part", (0, 0, height / 2), (radius, radius, height / 2))
    elif kind == "ball":
        body.add_geom(name="part", type=mujoco.mjtGeom.mjGEOM_SPHERE, pos=[0, 0, radius], size=[radius, 0, 0])
    elif kind == "cylinder":
        size = [radius, height / 2, 0]
        body.add_geom(name="part", type=mujoco.mjtGeom.mjGEOM_CYLINDER, pos=[0, 0, height / 2], size=size)
    elif kind == "table":
        _add_box(body, "part top", (0, 0, height - 0.02), (radius, radius, 0.02))
        for x in (-1, 1):
            for y in (-1, 1):
                place = (x * (radius - 0.03), y * (radius - 0.03), height / 2 - 0.02)
                _add_box(body, f"part {x} {y}", place, (0.03, 0.03, height / 2 - 0.02))
    elif kind == "stairs":
        for step in range(3):
            top = height * (step + 1) / 3
            place = (radius * (2 * step - 2) / 3, 0.0, top / 2)
            _add_box(body, f"part {step}", place, (radius / 3, radius, top / 2))
    else:
        for side in (-1, 1):
            _add_box(body, f"part {side}", (0.0, side * radius, height * 0.75), (0.03, 0.03, height * 0.75))
        for rung in range(4):
            _add_box(body, f"part rung {rung}", (0.0, 0.0, height * (0.2 + 0.38 * rung)), (0.025, radius, 0.03))


def _add_box(
    body: mujoco.MjsBody, name: str, pos: tuple[float, float, float], half: tuple[float, float, float]
) -> None:
    body.add_geom(name=name, type=mujoco.mjtGeom.mjGEOM_BOX, pos=list(pos), size=list(half))
