"""Depth in metres from any of Isaac Lab's cameras, of version 2.3 or 3.0."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from defm_rl.terms.cameras import SceneCamera

KNOWN_VERSIONS = ("2.3", "3.0")
"""The versions of Isaac Lab whose sensors `DepthCamera` knows."""

PLANAR = ("depth", "distance_to_image_plane")
"""Data types that are depth along the optical axis, best first."""

RAY_LENGTH = "distance_to_camera"
"""The data type that is the distance to the camera, which a pinhole camera's depth follows from."""


class DepthCamera(SceneCamera):
    """A camera of an Isaac Lab scene as metric depth, in which whatever is not a measurement is 0; see `SceneCamera`.

    Isaac Lab's cameras differ in what they write where nothing is hit: Newton's renderer 0, RTX infinity, the ray
    casters infinity or NaN, and each of them its range where `depth_clipping_behavior` is "max". The container
    differs, too: 2.3 hands out tensors, 3.0 a `ProxyArray`. Newton's renderer has no near clip: `min_depth_m` is one.

    `data_type` is "depth", "distance_to_image_plane" or "distance_to_camera" (pinhole cameras only); "auto" for the
    first of these that the sensor gives.
    """

    def __init__(self, sensors: Mapping[str, Any], name: str, **settings: Any) -> None:
        super().__init__(sensors, name, **settings)
        self._cap_m = min(_cap_m(self._sensor.cfg), torch.finfo(torch.float32).max)
        if self.data_type != RAY_LENGTH:
            self._far_m = min(self._far_m, self._cap_m)

    @property
    def image_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        height, width = self._sensor.image_shape
        return int(height), int(width)

    def _choose_data_type(self, name: str, asked: str, where: str) -> str:
        return _choose_data_type(self._sensor, name, asked, where)

    def _image(self) -> Tensor:
        return as_torch(self._sensor.data.output[self.data_type])[..., 0]

    def _along_axis(self, metres: Tensor) -> Tensor:
        if self.data_type != RAY_LENGTH:
            return metres
        # The cap is the ray's, the limits are the depth's.
        return torch.where(metres <= self._cap_m, metres, 0.0) * self._depth_per_ray_length()

    def _depth_per_ray_length(self) -> Tensor:
        """The cosine of each pixel's ray to the optical axis, (N, H, W)."""
        matrices = as_torch(self._sensor.data.intrinsic_matrices)
        (height, width), device = self.image_size, matrices.device
        focal_x, focal_y, centre_x, centre_y = matrices[:, (0, 1, 0, 1), (0, 1, 2, 2)].T[:, :, None, None]
        x = (torch.arange(width, device=device) + 0.5 - centre_x) / focal_x
        y = (torch.arange(height, device=device)[:, None] + 0.5 - centre_y) / focal_y
        return (1 + x**2 + y**2).rsqrt()


def _choose_data_type(sensor: Any, name: str, asked: str, where: str) -> str:
    given = getattr(sensor.cfg, "data_types", None)
    key = f"scene.{name}.data_types"
    if given is None:
        raise ValueError(
            f"{where}.sensor: {name!r} is a {type(sensor).__name__}, which gives no images: name a Camera, "
            "TiledCamera, RayCasterCamera or MultiMeshRayCasterCamera."
        )
    if asked == "auto":
        found = next((data_type for data_type in (*PLANAR, RAY_LENGTH) if data_type in given), None)
        if found is None:
            raise ValueError(f"{where}.sensor: {name!r} gives no depth but {', '.join(given)}: add 'depth' to {key}.")
        asked = found
    if asked not in (*PLANAR, RAY_LENGTH):
        raise ValueError(
            f"{where}.data_type: {asked!r} is not depth; it must be one of {', '.join((*PLANAR, RAY_LENGTH))}."
        )
    if asked not in given:
        raise ValueError(f"{where}.data_type: {name!r} gives no {asked!r} but {', '.join(given)}: add it to {key}.")
    if asked == RAY_LENGTH and "Fisheye" in type(getattr(sensor.cfg, "spawn", None)).__name__:
        raise ValueError(
            f"{where}.data_type: {RAY_LENGTH!r} of a fisheye camera cannot be turned into depth here: "
            f"add 'depth' to {key}."
        )
    return asked


def _cap_m(cfg: Any) -> float:
    """What a sensor writes for "nothing hit" where it clips to its range; infinity where it does not clip."""
    # The ray casters and 2.3's cameras hold the setting themselves, 3.0's cameras in their renderer's configuration.
    behaviours = {
        getattr(holder, "depth_clipping_behavior", None) for holder in (cfg, getattr(cfg, "renderer_cfg", None))
    }
    if "max" not in behaviours:
        return math.inf
    clipping_range = getattr(getattr(cfg, "spawn", None), "clipping_range", None)
    cap_m = clipping_range[1] if clipping_range is not None else cfg.max_distance
    return float(cap_m) * (1 - 1e-6)  # the sensor writes it in single precision


def as_torch(array: Any) -> Tensor:
    """The tensor of what Isaac Lab hands out, without a copy: a tensor in 2.3, a `ProxyArray` in 3.0.

    Raises:
        TypeError: Where it is neither.
    """
    tensor = array if isinstance(array, Tensor) else getattr(array, "torch", None)
    if not isinstance(tensor, Tensor):
        raise TypeError(
            f"Isaac Lab handed out a {type(array).__name__}, not a tensor (Isaac Lab 2.3) or a ProxyArray (3.0): "
            f"this adapter knows Isaac Lab {' and '.join(KNOWN_VERSIONS)}."
        )
    return tensor
