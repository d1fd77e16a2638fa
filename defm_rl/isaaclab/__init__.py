"""DeFM in Isaac Lab: observation terms for manager-based tasks, a function for direct ones, a reset event.

Known to work with Isaac Lab 3.0 (run), and written for 2.3 as well (see `defm_rl.isaaclab.sensors.KNOWN_VERSIONS`).
"""

from defm_rl.isaaclab.sensors import KNOWN_VERSIONS, DepthCamera, as_torch
from defm_rl.isaaclab.terms import (
    DefmDepth,
    DefmFeatures,
    add_depth_features,
    defm_depth,
    defm_features,
    depth_image,
    encode_depth,
    fresh_images_after_reset,
    refresh_kinematics,
)

__all__ = [
    "KNOWN_VERSIONS",
    "DefmDepth",
    "DefmFeatures",
    "DepthCamera",
    "add_depth_features",
    "as_torch",
    "defm_depth",
    "defm_features",
    "depth_image",
    "encode_depth",
    "fresh_images_after_reset",
    "refresh_kinematics",
]
