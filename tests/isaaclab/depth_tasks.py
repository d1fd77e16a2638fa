"""Small Isaac Lab tasks for the tests: a rover that looks at a wall."""

import contextlib
from pathlib import Path

import isaaclab.envs.mdp as mdp
import isaaclab.sim as sim_utils
import torch
from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg, AssetBaseCfg
from isaaclab.envs import ManagerBasedRLEnv, ManagerBasedRLEnvCfg
from isaaclab.managers import (
    EventTermCfg,
    ObservationGroupCfg,
    ObservationTermCfg,
    RewardTermCfg,
    SceneEntityCfg,
    TerminationTermCfg,
)
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sensors import CameraCfg, RayCasterCameraCfg, patterns
from isaaclab.sim import SimulationCfg
from isaaclab.utils import configclass
from isaaclab_newton.physics import MJWarpSolverCfg, NewtonCfg
from isaaclab_newton.renderers import NewtonWarpRendererCfg

import defm_rl.envs.isaaclab
from defm_rl.isaaclab import defm_depth, defm_features, depth_image, fresh_images_after_reset

ENCODER = {"encoder": "defm_efficientnet_b0", "weights": "random"}
NUM_ENVS, IMAGE, FOCAL_LENGTH, APERTURE = 4, (32, 48), 24.0, 24.0
WALL_X_M, CAMERA_X_M, CAMERA_Z_M = 3.9, 0.15, 0.35
_ROVER = Path(defm_rl.envs.isaaclab.__file__).with_name("rover.usda")


def box(name, size, position):
    return AssetBaseCfg(
        prim_path=f"{{ENV_REGEX_NS}}/{name}",
        spawn=sim_utils.MeshCuboidCfg(size=size),
        init_state=AssetBaseCfg.InitialStateCfg(pos=position),
    )


def camera(name, data_types):
    return CameraCfg(
        prim_path=f"{{ENV_REGEX_NS}}/Rover/base/{name}",
        height=IMAGE[0],
        width=IMAGE[1],
        data_types=data_types,
        spawn=sim_utils.PinholeCameraCfg(
            focal_length=FOCAL_LENGTH, horizontal_aperture=APERTURE, clipping_range=(0.01, 20.0)
        ),
        offset=CameraCfg.OffsetCfg(pos=(CAMERA_X_M, 0.0, CAMERA_Z_M), convention="world"),
        update_latest_camera_pose=True,
        renderer_cfg=NewtonWarpRendererCfg(),
    )


RAYS = {
    "prim_path": "{ENV_REGEX_NS}/Rover/base",
    "offset": RayCasterCameraCfg.OffsetCfg(pos=(CAMERA_X_M, 0.0, CAMERA_Z_M), convention="world"),
    "pattern_cfg": patterns.PinholeCameraPatternCfg(
        focal_length=FOCAL_LENGTH, horizontal_aperture=APERTURE, height=IMAGE[0], width=IMAGE[1]
    ),
    "max_distance": 20.0,
}


@configclass
class SceneCfg(InteractiveSceneCfg):
    num_envs: int = NUM_ENVS
    env_spacing: float = 20.0
    ground = AssetBaseCfg(
        prim_path="/World/Ground",
        spawn=sim_utils.MeshCuboidCfg(size=(200.0, 200.0, 0.1)),
        init_state=AssetBaseCfg.InitialStateCfg(pos=(0.0, 0.0, -0.05)),
    )
    wall = box("Wall", (0.2, 8.0, 1.0), (WALL_X_M + 0.1, 0.0, 0.5))
    rover = ArticulationCfg(
        prim_path="{ENV_REGEX_NS}/Rover",
        spawn=sim_utils.UsdFileCfg(usd_path=str(_ROVER)),
        actuators={
            "slides": ImplicitActuatorCfg(joint_names_expr=["x", "y"], stiffness=0.0, damping=340.0),
            "turn": ImplicitActuatorCfg(joint_names_expr=["yaw"], stiffness=0.0, damping=3.4),
        },
    )
    camera = camera("camera", ["depth", "distance_to_camera", "rgb"])


@configclass
class StateCfg(ObservationGroupCfg):
    joints = ObservationTermCfg(func=mdp.joint_pos_rel, params={"asset_cfg": SceneEntityCfg("rover")})


@configclass
class FeaturesCfg(ObservationGroupCfg):
    features = defm_features("camera", **ENCODER)


@configclass
class LateCfg(ObservationGroupCfg):
    late = defm_features("camera", latency_steps=2, **ENCODER)


@configclass
class SensedCfg(ObservationGroupCfg):
    features = defm_features("camera", sensor_model="stereo", **ENCODER)


@configclass
class HistoryCfg(ObservationGroupCfg):
    features = defm_features("camera", history_length=3, **ENCODER)


@configclass
class MapsCfg(ObservationGroupCfg):
    maps = defm_features("camera", features="P3", pool="columns", bifpn=False, **ENCODER)


@configclass
class ImagesCfg(ObservationGroupCfg):
    concatenate_terms = False
    metres = depth_image("camera")
    channels = defm_depth("camera", size=(16, 16))
    sensed = depth_image("camera", sensor_model="stereo")


@configclass
class GroupsCfg:
    policy: StateCfg = StateCfg()
    features: FeaturesCfg = FeaturesCfg()
    critic: FeaturesCfg = FeaturesCfg()
    late: LateCfg = LateCfg()
    sensed: SensedCfg = SensedCfg()
    history: HistoryCfg = HistoryCfg()
    maps: MapsCfg = MapsCfg()
    images: ImagesCfg = ImagesCfg()


@configclass
class ActionsCfg:
    velocity = mdp.JointVelocityActionCfg(asset_name="rover", joint_names=["x", "y", "yaw"])


@configclass
class EventsCfg:
    reset = EventTermCfg(
        func=mdp.reset_joints_by_offset,
        mode="reset",
        params={
            "position_range": (-0.2, 0.2),
            "velocity_range": (0.0, 0.0),
            "asset_cfg": SceneEntityCfg("rover"),
        },
    )
    fresh_images = fresh_images_after_reset()


@configclass
class RewardsCfg:
    alive = RewardTermCfg(func=mdp.is_alive, weight=1.0)


@configclass
class TerminationsCfg:
    time_out = TerminationTermCfg(func=mdp.time_out, time_out=True)


@configclass
class WallEnvCfg(ManagerBasedRLEnvCfg):
    scene: SceneCfg = SceneCfg()
    observations: GroupsCfg = GroupsCfg()
    actions: ActionsCfg = ActionsCfg()
    events: EventsCfg = EventsCfg()
    rewards: RewardsCfg = RewardsCfg()
    terminations: TerminationsCfg = TerminationsCfg()
    sim: SimulationCfg = SimulationCfg(
        dt=0.05,
        device="cpu",
        render_interval=2,
        physics=NewtonCfg(
            solver_cfg=MJWarpSolverCfg(njmax=16, nconmax=8, integrator="implicitfast"), use_cuda_graph=False
        ),
    )
    decimation: int = 2
    episode_length_s: float = 2.0
    seed: int = 0


@contextlib.contextmanager
def make(cfg, env_class=ManagerBasedRLEnv):
    env = env_class(cfg)
    try:
        yield env
    finally:
        env.close()


def term(env, group, index=0):
    """An observation term of an environment."""
    return env.observation_manager._group_obs_class_term_cfgs[group][index].func


def place(env, x_m=0.0, y_m=0.0, yaw=0.0):
    """Puts the rovers somewhere at rest; their cameras follow with the next step."""
    rover = env.scene["rover"]
    pose = torch.zeros(env.num_envs, 3)
    for column, value in enumerate((x_m, y_m, yaw)):
        pose[:, column] = torch.as_tensor(value)
    ids, _ = rover.find_joints(["x", "y", "yaw"], preserve_order=True)
    rover.write_joint_position_to_sim_index(position=pose, joint_ids=ids)
    rover.write_joint_velocity_to_sim_index(velocity=torch.zeros_like(pose), joint_ids=ids)


def hold(env):
    """One step in which nothing is commanded."""
    return env.step(torch.zeros(env.num_envs, env.action_manager.total_action_dim))
