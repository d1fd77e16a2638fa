"""One small run, trained once, of which each test has a copy of its own."""

import shutil
from pathlib import Path

import pytest

from defm_rl.commands import train
from defm_rl.experiments.runs import Run


@pytest.fixture(scope="session")
def _trained(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "run"
    task = ["experiment=navigation", "encoder=blind", "env.num_envs=4", "env.depth_size=[24,48]"]
    algo = ["algo.n_steps=16", "algo.batch_size=32", "algo.n_epochs=2", "algo.total_steps=256"]
    # The second checkpoint is that of the end.
    others = ["checkpoint_every=192", "evaluation.episodes=6", "evaluation.clips=0", f"hydra.run.dir={folder}"]
    assert train.main([*task, *algo, *others]) == 0
    return folder


@pytest.fixture
def run(_trained, tmp_path, monkeypatch) -> Run:
    """A blind policy after 256 steps, in the folder `run` of the working directory; the checkpoint before is of 192."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(_trained, "run")
    return Run(Path("run"))
