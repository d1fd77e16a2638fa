"""A small mjlab task for the tests: a camera on a slide that looks at a wall."""

import mujoco
from mjlab.actuator import BuiltinVelocityActuatorCfg
from mjlab.entity import EntityArticulationInfoCfg, EntityCfg
from mjlab.envs import ManagerBasedRlEnv, ManagerBasedRlEnvCfg
from mjlab.envs import mdp as envs_mdp
from mjlab.envs.mdp.actions import JointVelocityActionCfg
from mjlab.managers import ObservationGroupCfg, ObservationTermCfg, RewardTermCfg, TerminationTermCfg
from mjlab.scene import SceneCfg
from mjlab.sensor import CameraSensorCfg
from mjlab.sim import MujocoCfg, SimulationCfg

from defm_rl.envs.mjlab.tasks import looking_ahead
from defm_rl.mjlab import defm_depth, defm_features, depth_image

ENCODER = {"encoder": "defm_efficientnet_b0", "weights": "random"}
NUM_ENVS, IMAGE, WALL_X_M, STEP_S = 3, (32, 48), 3.0, 0.1
MODEL = f"""
<mujoco>
  <worldbody>
    <geom name="wall" type="box" size="0.1 8 0.6" pos="{WALL_X_M + 0.1} 0 0.6"/>
    <body name="cart" pos="0 0 0.5">
      <joint name="slide" type="slide" axis="1 0 0" damping="1"/>
      <geom type="sphere" size="0.05" pos="-0.3 0 0" mass="1" contype="0" conaffinity="0"/>
    </body>
  </worldbody>
</mujoco>
"""


def group(**terms):
    return ObservationGroupCfg(terms=terms, concatenate_terms=len(terms) == 1)


def cfg(**groups):
    late, stereo = {"latency_steps": 2}, {"sensor_model": "stereo"}
    return ManagerBasedRlEnvCfg(
        scene=SceneCfg(
            num_envs=NUM_ENVS,
            env_spacing=0.0,
            entities={
                "robot": EntityCfg(
                    spec_fn=lambda: mujoco.MjSpec.from_string(MODEL),
                    articulation=EntityArticulationInfoCfg(
                        actuators=(BuiltinVelocityActuatorCfg(target_names_expr=("slide",), damping=100.0),)
                    ),
                )
            },
            sensors=(
                CameraSensorCfg(
                    name="camera",
                    parent_body="robot/cart",
                    pos=(0.0, 0.0, 0.0),
                    quat=looking_ahead(0.0),
                    fovy=60.0,
                    height=IMAGE[0],
                    width=IMAGE[1],
                    data_types=("depth", "rgb"),
                ),
                CameraSensorCfg(
                    name="colour", pos=(0.0, 0.0, 1.0), height=IMAGE[0], width=IMAGE[1], data_types=("rgb",)
                ),
            ),
        ),
        observations=groups
        or {
            "actor": group(
                joints=ObservationTermCfg(func=envs_mdp.joint_pos_rel),
            ),
            "features": group(features=defm_features("camera", **ENCODER)),
            "critic": group(features=defm_features("camera", **ENCODER)),
            "late": group(features=defm_features("camera", **late, **ENCODER)),
            "history": group(features=defm_features("camera", history_length=3, **ENCODER)),
            "sensed": group(features=defm_features("camera", **stereo, **ENCODER)),
            "images": group(
                metres=depth_image("camera"),
                sensed=depth_image("camera", **stereo),
                channels=defm_depth("camera", size=(16, 16)),
            ),
        },
        actions={"slide": JointVelocityActionCfg(entity_name="robot", actuator_names=("slide",))},
        rewards={"alive": RewardTermCfg(func=envs_mdp.is_alive, weight=1.0)},
        terminations={"time_out": TerminationTermCfg(func=envs_mdp.time_out, time_out=True)},
        sim=SimulationCfg(nconmax=8, njmax=16, mujoco=MujocoCfg(timestep=STEP_S / 2)),
        decimation=2,
        episode_length_s=2.0,
        seed=0,
    )


def make(**groups):
    return ManagerBasedRlEnv(cfg(**groups), "cpu")
