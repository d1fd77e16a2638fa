"""The README's Python runs as it stands there, on environments and depth that a reader is supposed to have."""

from pathlib import Path

import pytest
import torch
from documents import ROOT, blocks
from fake_envs import vec_env

BLOCKS = blocks("README.md")


@pytest.fixture
def exported(tmp_path, monkeypatch):
    """A policy's file where the README says that it lies, and a frame and a state for it."""
    monkeypatch.syspath_prepend(ROOT / "tests" / "deploy")
    import tiny

    monkeypatch.chdir(tmp_path)
    Path("runs/quickstart/DATE").mkdir(parents=True)
    tiny.write(Path("runs/quickstart/DATE/policy.onnx"))
    return {"frame": torch.full((tiny.HEIGHT, tiny.WIDTH), 2.0).numpy(), "state": torch.zeros(2).numpy()}


def test_every_block_runs_after_those_before_it(without_hub, exported):
    names = {"depth": 5 * torch.rand(2, 48, 96), "env": vec_env(), **exported}
    assert len(BLOCKS) >= 4
    for block in BLOCKS:
        exec(compile(block, "README.md", "exec"), names)
    assert names["features"].shape == (2, 512)
    assert names["output"]["global_backbone"].shape == (1, 512)
    assert names["action"].shape == (2,)
    names["env"].close()
