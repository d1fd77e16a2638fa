"""Boxes that stand somewhere else, in another size, in every simulation of a batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

BOX_FIELDS = ("body_pos", "body_quat", "geom_size", "geom_rbound", "geom_aabb", "bvh_aabb")
"""The model fields that placing a box writes: what a task with boxes passes to `mujoco.batch.Batch.expand`."""


def add_box(spec: Any, name: str, center: Sequence[float], half: Sequence[float], rgba: Sequence[float]) -> None:
    """Add a box with a body of its own, which can then be moved, turned and resized.

    Args:
        spec: A `mujoco.MjSpec`.
        name: Of the body and of the geom.
        center: (3,) in metres.
        half: (3,) half lengths in metres.
        rgba: Colour.
    """
    # A body for each, so that a box can be moved and turned without touching a bounding volume shared with others. The
    # inertia is there only to keep the inertial frame, in which the body's own volume is held, equal to the body's.
    body = spec.worldbody.add_body(
        name=name,
        pos=list(center),
        explicitinertial=True,
        mass=1,
        ipos=[0, 0, 0],
        iquat=[1, 0, 0, 0],
        inertia=[1, 1, 1],
    )
    # Nothing is left to defaults, which may be a robot's own.
    box = mujoco.mjtGeom.mjGEOM_BOX
    body.add_geom(name=name, type=box, size=list(half), rgba=list(rgba), group=0, contype=1, conaffinity=1)


class Boxes:
    """Places boxes in the simulations of a batch.

    Args:
        model: The batch's model, in which `add_box` made these boxes one after the other.
        names: Their names, in that order; there may be none.
        fields: The values by simulation of at least `BOX_FIELDS`.
    """

    def __init__(self, model: Any, names: Sequence[str], fields: Mapping[str, NDArray[Any]]) -> None:
        self._fields = fields
        first = model.body(names[0]).id if names else model.nbody
        self._bodies = slice(first, first + len(names))
        # Every box is a body of one geom, so geoms and bounding volumes stand in the same order as the bodies.
        first_geom = model.body_geomadr[first] if names else model.ngeom
        self._geoms = slice(first_geom, first_geom + len(names))
        first_volume = model.body_bvhadr[first] if names else model.nbvh
        self._volumes = slice(first_volume, first_volume + len(names))

    def place(self, i: int, boxes: NDArray[np.float64]) -> None:
        """Place the boxes of simulation i.

        Args:
            i: The simulation.
            boxes: (number of boxes, 7): x, y, z of the centre, half lengths in x, y, z (metres), yaw (radians).
        """
        fields, half_sizes, half_yaw = self._fields, boxes[:, 3:6], boxes[:, 6] / 2
        fields["body_pos"][i, self._bodies] = boxes[:, :3]
        fields["body_quat"][i, self._bodies, 0] = np.cos(half_yaw)
        fields["body_quat"][i, self._bodies, 3] = np.sin(half_yaw)
        fields["geom_size"][i, self._geoms] = half_sizes
        # What the collision and ray tests ask first must follow the sizes: bounding spheres and boxes (centre, half).
        fields["geom_rbound"][i, self._geoms] = np.sqrt((half_sizes**2).sum(axis=1))
        fields["geom_aabb"][i, self._geoms, 3:] = half_sizes
        fields["bvh_aabb"][i, self._volumes, 3:] = half_sizes
