"""mjlab's own tasks with a depth camera: the YAM arm lifting a cube, Unitree's Go1 and G1 on rough terrain.

Each is the stock configuration with what DeFM makes of the camera's metres in the place of what its policy sees by: a
depth image that is divided by a cutoff, or a scan of the terrain's heights, which no robot has. The critic keeps both
what the stock critic knows and the height scan.
"""

import math
from typing import Any

from mjlab.envs import ManagerBasedRlEnvCfg
from mjlab.managers import ObservationGroupCfg
from mjlab.sensor import CameraSensorCfg
from mjlab.tasks.manipulation.config.yam.env_cfgs import yam_lift_cube_vision_env_cfg
from mjlab.tasks.velocity.config.g1.env_cfgs import unitree_g1_rough_env_cfg
from mjlab.tasks.velocity.config.go1.env_cfgs import unitree_go1_rough_env_cfg

from defm_rl.mjlab import add_depth_features, defm_features

CAMERA, DEPTH = "camera", "depth"
"""The camera's name in the scene of the legged robots, and the observation group of features in all tasks."""

LIFT_CAMERA = "camera_d405"
"""The stock wrist camera."""

_ENCODER = "defm_regnet_y_400mf"
_FEATURES: dict[str, Any] = {"features": "P3", "grid": [2, 8], "bifpn": False}
_TERRAIN = 0  # the group of geoms that is drawn: mjlab gives the rays of the height scans whatever a camera is given
_LIFT_RANGE_M = 1.0  # beyond it there is nothing that the arm could reach
_VERTICAL_FOV_DEG = 58.0  # RealSense D435's depth


def lift_cube_yam(play: bool = False) -> ManagerBasedRlEnvCfg:
    """A YAM arm lifts a cube that its wrist camera sees; only the critic is told where the cube is."""
    cfg = yam_lift_cube_vision_env_cfg("depth", play=play)
    camera = next(sensor for sensor in cfg.scene.sensors if sensor.name == LIFT_CAMERA)
    camera.height = camera.width = 64  # a map's cells are 8 pixels wide: the stock 32 would leave 4 x 4 of them
    del cfg.observations["camera"]
    features = defm_features(LIFT_CAMERA, _ENCODER, max_depth_m=_LIFT_RANGE_M, **_FEATURES)
    cfg.observations[DEPTH] = ObservationGroupCfg(terms={"features": features})
    return cfg


def velocity_rough_go1(play: bool = False) -> ManagerBasedRlEnvCfg:
    """Unitree's Go1 tracks velocities over rough terrain that a camera at its head sees."""
    return _seeing(unitree_go1_rough_env_cfg(play=play), "robot/trunk", (0.31, 0.0, 0.02), pitch_deg=30.0)


def velocity_rough_g1(play: bool = False) -> ManagerBasedRlEnvCfg:
    """Unitree's G1 tracks velocities over rough terrain that a camera in its head sees."""
    return _seeing(unitree_g1_rough_env_cfg(play=play), "robot/torso_link", (0.10, 0.0, 0.43), pitch_deg=48.0)


def _seeing(
    cfg: ManagerBasedRlEnvCfg, body: str, position_m: tuple[float, float, float], *, pitch_deg: float
) -> ManagerBasedRlEnvCfg:
    """Puts a camera's features in the place of the policy's height scan."""
    del cfg.observations["actor"].terms["height_scan"]
    camera = CameraSensorCfg(
        name=CAMERA,
        parent_body=body,
        pos=position_m,
        quat=looking_ahead(pitch_deg),
        fovy=_VERTICAL_FOV_DEG,
        width=80,
        height=48,
        data_types=("depth",),
        enabled_geom_groups=(_TERRAIN,),
    )
    add_depth_features(cfg, camera, _ENCODER, group=DEPTH, max_depth_m=5.0, **_FEATURES)
    return cfg


def looking_ahead(pitch_deg: float) -> tuple[float, float, float, float]:
    """The orientation (w, x, y, z) of a MuJoCo camera on a body that looks along the body's x, turned down by a pitch.

    MuJoCo's cameras look along their -z, with y up.
    """
    half = math.radians(pitch_deg) / 2
    cos, sin = 0.5 * math.cos(half), 0.5 * math.sin(half)
    return cos + sin, cos - sin, sin - cos, -(cos + sin)
