"""Point-goal navigation in Isaac Lab: a rover with a depth camera between walls, built from primitives alone.

It needs no asset server: with Newton's physics and renderer it runs offline, on a CPU as well as on a GPU.
"""

import math
from pathlib import Path

import isaaclab.envs.mdp as isaaclab_mdp
import isaaclab.sim as sim_utils
from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg, AssetBaseCfg
from isaaclab.envs import ManagerBasedRLEnvCfg
from isaaclab.managers import EventTermCfg, ObservationGroupCfg, ObservationTermCfg, RewardTermCfg, TerminationTermCfg
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sensors import CameraCfg
from isaaclab.sim import SimulationCfg
from isaaclab.utils import configclass
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg
from isaaclab_newton.renderers import NewtonWarpRendererCfg

from defm_rl.envs.isaaclab import layouts, mdp
from defm_rl.isaaclab import defm_features, depth_image, fresh_images_after_reset

_ASSETS = Path(__file__).parent
_CONTROL_STEP_S = 0.2
_DECIMATION = 4
_HORIZONTAL_FOV_DEG, _MAX_DEPTH_M = 100.0, 20.0
_FOCAL_LENGTH_MM = 24.0
_LENGTH_M = layouts.BOUNDS_M[1] - layouts.BOUNDS_M[0]
_WIDTH_M = 2 * layouts.HALF_WIDTH_M


def _box(name: str, size_m: tuple[float, float, float], position_m: tuple[float, float, float]) -> AssetBaseCfg:
    """A box that only the camera meets: collisions are geometry's, see `Layouts.collides`."""
    return AssetBaseCfg(
        prim_path=f"{{ENV_REGEX_NS}}/{name}",
        spawn=sim_utils.CuboidCfg(size=size_m),
        init_state=AssetBaseCfg.InitialStateCfg(pos=position_m),
    )


def _wall(index: int) -> ArticulationCfg:
    return ArticulationCfg(
        prim_path=f"{{ENV_REGEX_NS}}/Wall{index}",
        spawn=sim_utils.UsdFileCfg(usd_path=str(_ASSETS / "wall.usda")),
        actuators={"slides": ImplicitActuatorCfg(joint_names_expr=["x", "y"], stiffness=0.0, damping=1e4)},
    )


@configclass
class SceneCfg(InteractiveSceneCfg):
    """An arena of 7.5 by 4 m, two walls, the rover, its camera."""

    num_envs: int = 1024
    env_spacing: float = 16.0
    ground = _box("Ground", (16.0, 16.0, 0.1), (2.75, 0.0, -0.05))
    back = _box("Back", (0.2, _WIDTH_M + 0.4, 1.0), (layouts.BOUNDS_M[0] - 0.1, 0.0, 0.5))
    front = _box("Front", (0.2, _WIDTH_M + 0.4, 1.0), (layouts.BOUNDS_M[1] + 0.1, 0.0, 0.5))
    left = _box("Left", (_LENGTH_M, 0.2, 1.0), (2.75, layouts.HALF_WIDTH_M + 0.1, 0.5))
    right = _box("Right", (_LENGTH_M, 0.2, 1.0), (2.75, -layouts.HALF_WIDTH_M - 0.1, 0.5))
    wall_0 = _wall(0)
    wall_1 = _wall(1)
    rover = ArticulationCfg(
        prim_path="{ENV_REGEX_NS}/Rover",
        spawn=sim_utils.UsdFileCfg(usd_path=str(_ASSETS / "rover.usda")),
        actuators={  # lags of 0.05 s along the plane, 0.1 s in turning
            "slides": ImplicitActuatorCfg(joint_names_expr=["x", "y"], stiffness=0.0, damping=340.0),
            "turn": ImplicitActuatorCfg(joint_names_expr=["yaw"], stiffness=0.0, damping=3.4),
        },
    )
    camera = CameraCfg(
        prim_path="{ENV_REGEX_NS}/Rover/base/camera",
        height=48,
        width=96,
        data_types=["depth"],
        spawn=sim_utils.PinholeCameraCfg(
            focal_length=_FOCAL_LENGTH_MM,
            horizontal_aperture=2 * _FOCAL_LENGTH_MM * math.tan(math.radians(_HORIZONTAL_FOV_DEG) / 2),
            clipping_range=(0.02, _MAX_DEPTH_M),
        ),
        offset=CameraCfg.OffsetCfg(pos=(0.15, 0.0, 0.35), convention="world"),
        update_latest_camera_pose=True,  # else a camera on a moving body stays where it began
        renderer_cfg=NewtonWarpRendererCfg(),
    )


@configclass
class ActionsCfg:
    """Forward speed from standstill to 1.5 m/s, turn rate up to 2.5 rad/s to either side."""

    drive = isaaclab_mdp.NonHolonomicActionCfg(
        class_type=mdp.UnicycleAction,
        asset_name="rover",
        body_name="base",
        x_joint_name="x",
        y_joint_name="y",
        yaw_joint_name="yaw",
        scale=(0.75, 2.5),
        offset=(0.75, 0.0),
    )


@configclass
class StateCfg(ObservationGroupCfg):
    """What the rover knows without looking."""

    state = ObservationTermCfg(func=mdp.state)


@configclass
class PrivilegedCfg(ObservationGroupCfg):
    """What only a teacher or critic knows."""

    layout = ObservationTermCfg(func=mdp.privileged)


@configclass
class FeaturesCfg(ObservationGroupCfg):
    """What it sees, encoded once a frame."""

    features = defm_features("camera", "defm_regnet_y_400mf", features="P3", grid=(2, 12), bifpn=False)


@configclass
class ImageCfg(ObservationGroupCfg):
    """What it sees, in metres."""

    image = depth_image("camera")


@configclass
class FlatCfg(StateCfg):
    """State and features as one vector."""

    features = FeaturesCfg().features


@configclass
class DictCfg(StateCfg):
    """State and image side by side."""

    concatenate_terms: bool = False
    # Stable-Baselines3 would take (1, H, W) for a colour image, and refuse it as not normalised.
    depth = depth_image("camera", channel_axis=False)


@configclass
class GroupsCfg:
    """State, features and what is privileged, as groups of their own."""

    policy: StateCfg = StateCfg()
    privileged: PrivilegedCfg | None = PrivilegedCfg()
    depth: FeaturesCfg | ImageCfg | None = FeaturesCfg()


@configclass
class EventsCfg:
    """A new world every episode, and no image of the old one."""

    layout = EventTermCfg(func=mdp.DrawLayout, mode="reset")
    fresh_images = fresh_images_after_reset()


@configclass
class RewardsCfg:
    """Metres of progress, minus a little for every step; Isaac Lab multiplies by the step's seconds."""

    progress = RewardTermCfg(func=mdp.Progress, weight=1.0)
    time = RewardTermCfg(func=isaaclab_mdp.is_alive, weight=-0.02 / _CONTROL_STEP_S)
    success = RewardTermCfg(func=mdp.at_goal, weight=5.0 / _CONTROL_STEP_S)
    collision = RewardTermCfg(func=mdp.collision, weight=-1.0 / _CONTROL_STEP_S)


@configclass
class TerminationsCfg:
    """Goal, collision, or 60 steps."""

    success = TerminationTermCfg(func=mdp.at_goal)
    collision = TerminationTermCfg(func=mdp.collision)
    time_out = TerminationTermCfg(func=isaaclab_mdp.time_out, time_out=True)


@configclass
class NavigationEnvCfg(ManagerBasedRLEnvCfg):
    """Features in a group of their own, for trainers that know groups (RSL-RL)."""

    scene: SceneCfg = SceneCfg()
    observations: GroupsCfg = GroupsCfg()
    actions: ActionsCfg = ActionsCfg()
    events: EventsCfg = EventsCfg()
    rewards: RewardsCfg = RewardsCfg()
    terminations: TerminationsCfg = TerminationsCfg()
    decimation: int = _DECIMATION
    episode_length_s: float = 60 * _CONTROL_STEP_S
    sim: SimulationCfg = SimulationCfg(
        dt=_CONTROL_STEP_S / _DECIMATION,
        render_interval=_DECIMATION,
        physics=NewtonCfg(solver_cfg=MJWarpSolverCfg(njmax=16, nconmax=8, integrator="implicitfast")),
    )


@configclass
class NavigationFlatEnvCfg(NavigationEnvCfg):
    """Everything in the one group "policy", for trainers that see no other (Stable-Baselines3, skrl, rl_games)."""

    def __post_init__(self) -> None:
        """Replaces the groups."""
        self.observations.policy = FlatCfg()
        self.observations.privileged = None
        self.observations.depth = None


@configclass
class NavigationImageEnvCfg(NavigationEnvCfg):
    """Images in a group of their own, for a policy that encodes, to fine-tune the encoder."""

    def __post_init__(self) -> None:
        """Replaces the features by the image."""
        self.observations.depth = ImageCfg()


@configclass
class NavigationDictEnvCfg(NavigationEnvCfg):
    """State and image in the one group "policy", for policies that encode under trainers that see no other group."""

    def __post_init__(self) -> None:
        """Replaces the groups."""
        self.observations.policy = DictCfg()
        self.observations.privileged = None
        self.observations.depth = None


@configclass
class NavigationBlindEnvCfg(NavigationEnvCfg):
    """The same without a camera: what a policy does that cannot see."""

    def __post_init__(self) -> None:
        """Takes the camera out."""
        self.scene.camera = None
        self.observations.depth = None
