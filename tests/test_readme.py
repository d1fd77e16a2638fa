"""The README's Python runs as it stands there, on environments and depth that a reader is supposed to have."""

import torch
from documents import blocks
from fake_envs import vec_env, vector_env
from readers import RSL_RL_SETTINGS

BLOCKS = blocks("README.md")


def test_every_block_runs_after_those_before_it(without_hub):
    names = {"depth": 5 * torch.rand(2, 48, 96), "settings": RSL_RL_SETTINGS}
    assert len(BLOCKS) >= 4
    for block in BLOCKS:
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
