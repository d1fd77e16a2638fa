"""The README's Python runs as it stands there, on environments and depth that a reader is supposed to have."""

import torch
from documents import blocks
from fake_envs import vec_env, vector_env

BLOCKS = blocks("README.md")

# Of RSL-RL, as its users have them.
MODEL = {"class_name": "defm_rl.rsl_rl:DefmModel"}
SETTINGS = {
    "num_steps_per_env": 4,
    "save_interval": 1000,
    "obs_groups": {"actor": ["depth", "state"], "critic": ["depth", "state"]},
    "actor": {**MODEL, "distribution_cfg": {"class_name": "GaussianDistribution"}},
    "critic": MODEL,
    "algorithm": {"class_name": "PPO"},
}


def test_every_block_runs_after_those_before_it(without_hub):
    names = {"depth": 5 * torch.rand(2, 48, 96), "settings": SETTINGS}
    assert len(BLOCKS) >= 4
    for block in BLOCKS:
        if "defm_rl.isaaclab" in block:
            continue  # has an environment of its own
        if "defm_rl.deploy" in block:
            continue  # takes an exported file: tests/deploy does the same with one
        names["env"] = vec_env() if "PPO(" in block else vector_env()
        exec(compile(block, "README.md", "exec"), names)
    assert names["features"].shape == (2, 512)
    assert names["out"].maps.keys() == {"P3", "P4", "P5"}
    names["model"].predict(names["model"].get_env().reset())
    names["runner"].learn(1)
    assert names["env"].single_observation_space["depth"].shape == (512,)
    names["env"].close()
