"""The Python in the documents runs as it stands there: whole scripts, but shorter; fragments in their order."""

import re
import runpy
import sys

import pytest
import torch
import wandb
from documents import blocks, scripts, shortened
from fake_envs import vec_env

SHORT = {"STEPS": 16, "NUM_ENVS": 2, "EPISODES": 2, "BUFFER_SIZE": 100, "LEARNING_STARTS": 8}
SETTINGS_OF_PPO = {"n_steps=128": "n_steps=8", "batch_size=512": "batch_size=16"}


@pytest.mark.slow
@pytest.mark.usefixtures("without_hub")
@pytest.mark.parametrize("document", ["docs/sb3.md"])
def test_scripts_run(document, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # it reads its settings once in a process
    found = scripts(document)
    assert found
    for name, script in found.items():
        short = shortened(script, SHORT)
        assert not re.search(r"^[A-Z_]+ = \d+_000$", short, flags=re.MULTILINE), f"{name} takes its time: add to SHORT"
        for written, smaller in SETTINGS_OF_PPO.items():
            short = short.replace(written, smaller)
        (tmp_path / name).write_text(short)
        runpy.run_path(name, run_name="__main__")
    for name in found:
        sys.modules.pop(name.removesuffix(".py"), None)


@pytest.mark.usefixtures("without_hub")
def test_coming_from_defm_runs():
    names = {"depth_m": 5 * torch.rand(96, 160), "env": vec_env()}
    for block in blocks("docs/from_defm.md"):
        exec(compile(block, "docs/from_defm.md", "exec"), names)
    assert names["class_token"].shape == (1, 512)
    assert names["spatial_tokens"].shape == (1, 128, 14, 20)
    assert names["p4"].shape == (1, 128, 14, 14)
    assert names["vectors"].shape == (1, names["encoder"].feature_dim)
    assert names["env"].observation_space["depth"].shape == (192,)
    names["env"].close()
