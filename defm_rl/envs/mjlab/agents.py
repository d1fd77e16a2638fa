"""RSL-RL's runner configurations for the tasks: the stock ones, with models that see."""

from dataclasses import replace

from mjlab.rl import RslRlOnPolicyRunnerCfg
from mjlab.tasks.manipulation.config.yam.rl_cfg import yam_lift_cube_ppo_runner_cfg
from mjlab.tasks.velocity.config.g1.rl_cfg import unitree_g1_ppo_runner_cfg
from mjlab.tasks.velocity.config.go1.rl_cfg import unitree_go1_ppo_runner_cfg

from defm_rl.envs.mjlab.tasks import DEPTH
from defm_rl.mjlab.runners import DefmModelCfg


def lift_cube_yam() -> RslRlOnPolicyRunnerCfg:
    """PPO on features that the environment encodes."""
    return _seeing(yam_lift_cube_ppo_runner_cfg())


def velocity_rough_go1() -> RslRlOnPolicyRunnerCfg:
    """PPO on features that the environment encodes."""
    return _seeing(unitree_go1_ppo_runner_cfg())


def velocity_rough_g1() -> RslRlOnPolicyRunnerCfg:
    """PPO on features that the environment encodes."""
    return _seeing(unitree_g1_ppo_runner_cfg())


def _seeing(cfg: RslRlOnPolicyRunnerCfg) -> RslRlOnPolicyRunnerCfg:
    """Gives the actor the features; the critic, who is told what is there, needs none."""
    actor = cfg.actor
    cfg.actor = DefmModelCfg(
        hidden_dims=actor.hidden_dims,
        activation=actor.activation,
        obs_normalization=actor.obs_normalization,
        distribution_cfg=actor.distribution_cfg,
        feature_groups=[DEPTH],
    )
    obs_groups: dict[str, tuple[str, ...]] = {"actor": ("actor", DEPTH), "critic": ("critic",)}
    return replace(cfg, obs_groups=obs_groups, experiment_name=f"defm_{cfg.experiment_name}")
