"""Legs and gait of quadrupeds: kinematics of a three-joint leg and the trot that a policy modulates.

Arrays over legs and joints stand in the order of `LEGS`, and in each leg abduction, thigh, calf.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEGS = ("FR", "FL", "RR", "RL")
LINKS = ("hip", "thigh", "calf")
JOINT_NAMES = tuple(f"{leg}_{link}_joint" for leg in LEGS for link in LINKS)
ACTUATOR_NAMES = tuple(f"{leg}_{link}" for leg in LEGS for link in LINKS)

_PHASE_OFFSETS = np.array([0.0, 0.5, 0.5, 0.0])  # diagonal legs move together


@dataclass(frozen=True)
class Legs:
    """Four legs, each of which turns about x at the hip, then about y at the thigh and at the knee.

    Attributes:
        hips: (4, 3) where the abduction axes begin, in the trunk's frame, in metres.
        offset_y: (4,) from there to the plane of thigh and calf, in metres, positive to the left.
        thigh_m: Length of the thighs.
        calf_m: Length of the calves, down to the centre of the feet.
    """

    hips: Floats
    offset_y: Floats
    thigh_m: float
    calf_m: float

    @classmethod
    def of_model(cls, model: Any) -> "Legs":
        """Read the lengths from a MuJoCo model's bodies (`FR_hip`, `FR_thigh`, `FR_calf`, ...) and geoms (`FR`)."""
        thighs = np.array([model.body(f"{leg}_thigh").pos for leg in LEGS])
        return cls(
            hips=np.array([model.body(f"{leg}_hip").pos for leg in LEGS]),
            offset_y=thighs[:, 1],
            thigh_m=float(-model.body("FR_calf").pos[2]),
            calf_m=float(-model.geom("FR").pos[2]),
        )

    def feet(self, angles: Floats) -> Floats:
        """Where the feet are.

        Args:
            angles: (..., 4, 3) joint angles in radians.

        Returns:
            (..., 4, 3) centres of the feet in the trunk's frame, in metres.
        """
        abduction, thigh, calf = np.moveaxis(angles, -1, 0)
        x = -self.thigh_m * np.sin(thigh) - self.calf_m * np.sin(thigh + calf)
        down = -self.thigh_m * np.cos(thigh) - self.calf_m * np.cos(thigh + calf)
        cos, sin = np.cos(abduction), np.sin(abduction)
        return self.hips + np.stack([x, self.offset_y * cos - down * sin, self.offset_y * sin + down * cos], axis=-1)

    def angles(self, feet: Floats) -> Floats:
        """Joint angles, knees bent backwards, that put the feet somewhere; as near as it gets where out of reach.

        Args:
            feet: (..., 4, 3) centres of the feet in the trunk's frame, in metres.

        Returns:
            (..., 4, 3) in radians.
        """
        x, y, z = np.moveaxis(feet - self.hips, -1, 0)
        down = -np.sqrt(np.maximum(y**2 + z**2 - self.offset_y**2, 1e-6))
        abduction = np.arctan2(z, y) - np.arctan2(down, self.offset_y)
        abduction = (abduction + np.pi) % (2 * np.pi) - np.pi
        a, b = self.thigh_m, self.calf_m
        calf = -np.arccos(np.clip((x**2 + down**2 - a**2 - b**2) / (2 * a * b), -1, 1))
        thigh = np.arctan2(-x, -down) - np.arctan2(b * np.sin(calf), a + b * np.cos(calf))
        return np.stack([abduction, thigh, calf], axis=-1)


@dataclass(frozen=True)
class Trot:
    """A trot as a function of a phase and a velocity: what the policy's actions are added to.

    Policies that modulate such a reference learn to walk in a fraction of the steps (Iscen et al. 2018, "Policies
    Modulating Trajectory Generators", arXiv:1910.02812). Each foot stands for half the period, moving against the
    commanded velocity, and swings back in the other half.

    Attributes:
        legs: Whose feet to move.
        stance: (4, 3) mean positions of the feet in the trunk's frame, in metres.
        period_s: Seconds from one step of a foot to its next.
        swing_height_m: How high feet are lifted.
    """

    legs: Legs
    stance: Floats
    period_s: float
    swing_height_m: float

    def angles(self, phase: Floats, command: Floats) -> Floats:
        """Reference joint angles.

        Args:
            phase: (n,) from 0 to 1.
            command: (n, 3): velocity forwards and to the left (m/s), turn rate (rad/s).

        Returns:
            (n, 4, 3) in radians.
        """
        leg_phase = (phase[:, None] + _PHASE_OFFSETS) % 1.0
        # 1 where a foot is farthest ahead, at the end of its swing, -1 at the end of its stance.
        swing = 2 * leg_phase - 1  # in the second half of the cycle, from 0 to 1
        reach = np.where(leg_phase < 0.5, 1 - 4 * leg_phase, -np.cos(np.pi * swing))
        lift = np.where(leg_phase < 0.5, 0.0, np.sin(np.pi * swing) ** 2)
        velocity = np.stack(
            [
                command[:, 0, None] - command[:, 2, None] * self.stance[:, 1],
                command[:, 1, None] + command[:, 2, None] * self.stance[:, 0],
            ],
            axis=-1,
        )
        feet = np.broadcast_to(self.stance, (len(phase), *self.stance.shape)).copy()
        feet[..., :2] += reach[..., None] * velocity * (self.period_s / 4)
        feet[..., 2] += lift * self.swing_height_m
        return self.legs.angles(feet)
