"""DeFM in mjlab: observation terms for its manager-based tasks, on the cameras of MuJoCo Warp.

Known to work with mjlab 1.6 (run on a CPU).
"""

from defm_rl.mjlab.sensors import DepthCamera
from defm_rl.mjlab.terms import (
    DefmDepth,
    DefmFeatures,
    add_depth_features,
    defm_depth,
    defm_features,
    depth_image,
)

__all__ = [
    "DefmDepth",
    "DefmFeatures",
    "DepthCamera",
    "add_depth_features",
    "defm_depth",
    "defm_features",
    "depth_image",
]
