"""Depth-camera tasks for mjlab: `import defm_rl.envs.mjlab` registers them; its commands find them by themselves."""

from mjlab.tasks.manipulation.rl import ManipulationOnPolicyRunner
from mjlab.tasks.registry import list_tasks, register_mjlab_task
from mjlab.tasks.velocity.rl import VelocityOnPolicyRunner

from defm_rl.envs.mjlab import agents, tasks

LIFT_CUBE = "defm_rl/Mjlab-Lift-Cube-Yam"
VELOCITY_GO1 = "defm_rl/Mjlab-Velocity-Rough-Unitree-Go1"
VELOCITY_G1 = "defm_rl/Mjlab-Velocity-Rough-Unitree-G1"

for _id, _env_cfg, _rl_cfg, _runner in (
    (LIFT_CUBE, tasks.lift_cube_yam, agents.lift_cube_yam, ManipulationOnPolicyRunner),
    (VELOCITY_GO1, tasks.velocity_rough_go1, agents.velocity_rough_go1, VelocityOnPolicyRunner),
    (VELOCITY_G1, tasks.velocity_rough_g1, agents.velocity_rough_g1, VelocityOnPolicyRunner),
):
    if _id not in list_tasks():  # a module may be imported again
        register_mjlab_task(_id, _env_cfg(), _env_cfg(play=True), _rl_cfg(), _runner)
