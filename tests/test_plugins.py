"""Installed packages bring encoders, sensors, tasks and experiments; broken ones are named and left out."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1] / "examples" / "your_project"


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder with the project as pip would leave it, and a package whose plugin fails."""
    site = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", "--target", site]
    source = tmp_path_factory.mktemp("source") / "your_project"  # building leaves folders behind
    shutil.copytree(PROJECT, source)
    subprocess.run([*command, source], check=True, timeout=120)
    broken = site / "broken-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
    (broken / "entry_points.txt").write_text("[defm_rl.encoders]\nbroken = nothing_there\n")
    return site


def run(site, *command, cwd):
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "defm_rl.cli", *command],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": f"{root}:{site}"},
        timeout=300,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_broken_plugin_is_named_once_and_the_others_are_there(installed, tmp_path):
    status, said = run(installed, "encoders", cwd=tmp_path)
    assert status == 0
    assert "your_encoder" in said
    assert said.count("The plugin broken = nothing_there of broken (defm_rl.encoders) is left out") == 1


@pytest.mark.slow
def test_a_misspelt_option_is_held_against_theirs_too(installed, tmp_path):
    status, said = run(installed, "train", "experiment=which_sid", cwd=tmp_path)
    assert status == 2
    assert "Did you mean 'which_side'" in said


@pytest.mark.slow
def test_an_installed_project_is_trained_by_its_names(installed, tmp_path):
    short = ["algo.n_steps=8", "algo.batch_size=16", "algo.n_epochs=1", "algo.total_steps=64"]
    rest = ["evaluation.episodes=4", "evaluation.clips=0", "hydra.run.dir=run"]
    status, said = run(installed, "train", "experiment=which_side", *short, *rest, cwd=tmp_path)
    assert status == 0, said
    config = (tmp_path / "run" / "config.yaml").read_text()
    assert "your_encoder" in config
    assert "your_camera" in config
