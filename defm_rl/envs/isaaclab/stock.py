"""Isaac Lab's own tasks with a depth camera: ANYmal on rough terrain and to a pose, Franka lifting a cube.

Each is the stock configuration, less what its policy could not know on a real robot, plus a camera and what DeFM makes
of its image. The robots' files are downloaded by Isaac Lab when an environment is made.
"""

import math
from typing import Any

import isaaclab.sim as sim_utils
from isaaclab.managers import ObservationGroupCfg
from isaaclab.sensors import CameraCfg
from isaaclab.utils import configclass
from isaaclab_tasks.contrib.lift.config.franka.joint_pos_env_cfg import FrankaCubeLiftEnvCfg
from isaaclab_tasks.contrib.navigation.config.anymal_c.navigation_env_cfg import NavigationEnvCfg
from isaaclab_tasks.core.velocity.config.anymal_d.rough_env_cfg import AnymalDRoughEnvCfg
from isaaclab_tasks.utils.presets import MultiBackendRendererCfg

from defm_rl.isaaclab import add_depth_features

_FEATURES = {"features": "P3", "grid": [2, 8], "bifpn": False}
_ENCODER = "defm_regnet_y_400mf"


@configclass
class AnymalDRoughDepthEnvCfg(AnymalDRoughEnvCfg):
    """ANYmal D tracks velocities over rough terrain that it sees; only the critic has the height scan."""

    def __post_init__(self) -> None:
        """Adds the camera, and takes the height scan from the policy."""
        super().__post_init__()
        _make_privileged(self, "height_scan")
        # 45 cm ahead of the base, looking 30 degrees down.
        camera = _camera("{ENV_REGEX_NS}/Robot/base/depth", (0.45, 0.0, 0.1), pitch_deg=30.0, max_depth_m=5.0)
        add_depth_features(self, camera, _ENCODER, max_depth_m=5.0, **_FEATURES)
        self.scene.num_envs = 1024


@configclass
class AnymalCNavigationDepthEnvCfg(NavigationEnvCfg):
    """ANYmal C walks to a pose, with a camera to see what is in the way (in the stock task, nothing is)."""

    def __post_init__(self) -> None:
        """Adds the camera."""
        super().__post_init__()
        camera = _camera("{ENV_REGEX_NS}/Robot/base/depth", (0.45, 0.0, 0.1), pitch_deg=10.0, max_depth_m=10.0)
        add_depth_features(self, camera, _ENCODER, max_depth_m=10.0, **_FEATURES)
        self.scene.num_envs = 1024


@configclass
class FrankaLiftDepthEnvCfg(FrankaCubeLiftEnvCfg):
    """Franka lifts a cube that it has to see; only the critic knows where the cube is."""

    def __post_init__(self) -> None:
        """Adds the camera, and takes the cube's position from the policy."""
        super().__post_init__()
        _make_privileged(self, "object_position")
        # Opposite the arm, looking back and down at the middle of the table.
        camera = _camera("{ENV_REGEX_NS}/depth", (1.3, 0.0, 0.6), pitch_deg=35.0, yaw_deg=180.0, max_depth_m=3.0)
        add_depth_features(self, camera, _ENCODER, max_depth_m=3.0, **_FEATURES)
        self.scene.num_envs = 1024


@configclass
class AnymalDRoughDepthFlatEnvCfg(AnymalDRoughDepthEnvCfg):
    """The same in the one group "policy"."""

    def __post_init__(self) -> None:
        """Joins the groups."""
        super().__post_init__()
        _join_groups(self)


@configclass
class AnymalCNavigationDepthFlatEnvCfg(AnymalCNavigationDepthEnvCfg):
    """The same in the one group "policy"."""

    def __post_init__(self) -> None:
        """Joins the groups."""
        super().__post_init__()
        _join_groups(self)


@configclass
class FrankaLiftDepthFlatEnvCfg(FrankaLiftDepthEnvCfg):
    """The same in the one group "policy"."""

    def __post_init__(self) -> None:
        """Joins the groups."""
        super().__post_init__()
        _join_groups(self)


def _camera(
    prim_path: str,
    position_m: tuple[float, float, float],
    *,
    pitch_deg: float,
    max_depth_m: float,
    yaw_deg: float = 0.0,
) -> CameraCfg:
    """A camera of 64x64 pixels, 87 degrees wide as a RealSense D435, that looks down by `pitch_deg`."""
    pitch, yaw = math.radians(pitch_deg) / 2, math.radians(yaw_deg) / 2
    # About y by the pitch, then about z by the yaw; x, y, z, w.
    rotation = (
        -math.sin(pitch) * math.sin(yaw),
        math.sin(pitch) * math.cos(yaw),
        math.cos(pitch) * math.sin(yaw),
        math.cos(pitch) * math.cos(yaw),
    )
    focal_length_mm = 24.0
    return CameraCfg(
        prim_path=prim_path,
        height=64,
        width=64,
        data_types=["depth"],
        spawn=sim_utils.PinholeCameraCfg(
            focal_length=focal_length_mm,
            horizontal_aperture=2 * focal_length_mm * math.tan(math.radians(87.0) / 2),
            clipping_range=(0.1, 2 * max_depth_m),
        ),
        offset=CameraCfg.OffsetCfg(pos=position_m, rot=rotation, convention="world"),
        update_latest_camera_pose=True,
        renderer_cfg=MultiBackendRendererCfg(),  # Newton's; `renderer=isaacsim_rtx` on the command line for RTX
    )


def _make_privileged(cfg: Any, term: str) -> None:
    """Moves an observation term from the policy to a group that only the critic is given."""
    group = ObservationGroupCfg()
    setattr(group, term, getattr(cfg.observations.policy, term))
    setattr(cfg.observations.policy, term, None)
    cfg.observations.privileged = group


def _join_groups(cfg: Any) -> None:
    """Puts the features into the policy's group, for trainers that see no other."""
    cfg.observations.policy.features = cfg.observations.depth.features
    cfg.observations.depth = None
    cfg.observations.privileged = None
