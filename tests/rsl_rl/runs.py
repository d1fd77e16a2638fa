"""RSL-RL runners on tiny environments."""

from typing import Any

import torch
from fake_envs import vector_env
from rsl_rl.runners import DistillationRunner, OnPolicyRunner

from defm_rl.gymnasium import EncodeDepth
from defm_rl.rsl_rl import RslRlVecEnv

ENCODER = {
    "encoder": "defm_regnet_y_400mf",
    "weights": "random",
    "features": ["P3"],
    "bifpn": False,
    "pool": "grid",
    "grid": (2, 2),
}
STEPS, ENVS = 7, 4


def environment(encoded: bool = True, **kwargs: Any) -> RslRlVecEnv:
    env = vector_env(ENVS, **kwargs)
    return RslRlVecEnv(EncodeDepth(env, device="cpu", **ENCODER) if encoded else env, seed=0)


def model(**settings: Any) -> dict[str, Any]:
    return {"class_name": "defm_rl.rsl_rl:DefmModel", "hidden_dims": [16], "latent_dim": 8, **settings}


def ppo(env: RslRlVecEnv, groups: Any = ("depth", "state"), algorithm: Any = None, **settings: Any) -> OnPolicyRunner:
    torch.manual_seed(0)
    config = {
        "num_steps_per_env": STEPS,
        "save_interval": 1000,
        "obs_groups": {"actor": list(groups), "critic": list(groups)},
        "actor": model(**settings, distribution_cfg={"class_name": "GaussianDistribution"}),
        "critic": model(**settings),
        "algorithm": {"class_name": "PPO", "num_learning_epochs": 2, "num_mini_batches": 2, **(algorithm or {})},
    }
    return OnPolicyRunner(env, config)


def distillation(env: RslRlVecEnv, algorithm: Any = None, **student: Any) -> DistillationRunner:
    torch.manual_seed(1)
    gaussian = {"class_name": "GaussianDistribution", "init_std": 0.1}
    config = {
        "num_steps_per_env": STEPS,
        "save_interval": 1000,
        "obs_groups": {"student": ["depth", "state"], "teacher": ["state"]},
        "student": model(**student, distribution_cfg=gaussian),
        "teacher": model(distribution_cfg=gaussian),
        "algorithm": {"class_name": "Distillation", "gradient_length": 7, "learning_rate": 3e-3, **(algorithm or {})},
    }
    return DistillationRunner(env, config)


def rollout(runner: OnPolicyRunner) -> None:
    """What the runner's `learn` does before it updates."""
    obs = runner.env.get_observations()
    with torch.inference_mode():
        for _ in range(STEPS):
            obs, rewards, dones, extras = runner.env.step(runner.alg.act(obs))
            runner.alg.process_env_step(obs, rewards, dones, extras)
        runner.alg.compute_returns(obs)


def optimized(runner: Any) -> list[torch.nn.Parameter]:
    return [parameter for group in runner.alg.optimizer.param_groups for parameter in group["params"]]
