"""Each example by commands alone: checked, trained for seconds, evaluated behind two sensors, and reported."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
SHORT = ["encoder.weights=random", "env.num_envs=2", "env.max_episode_steps=8", "evaluation.episodes=2"]
SHORT += ["algo.total_steps=32", "algo.batch_size=16"]
PPO = ["algo.n_steps=8", "algo.n_epochs=1"]
HEADLESS = {"MUJOCO_GL": "egl", "PYGLET_HEADLESS": "true"}

# What opens a window without a display as the examples' packages do.
_DRAWS = {
    "mujoco": "import mujoco; mujoco.GLContext(8, 8).make_current()",
    "miniworld": "import pyglet; pyglet.options['headless'] = True; import pyglet.window; pyglet.window.Window(8, 8)",
    "pybullet": "",  # by itself, on the processor
}


def python(folder, *arguments, cwd=None):
    path = os.pathsep.join([str(ROOT), str(EXAMPLES / folder)])
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **HEADLESS, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def defm_rl(folder, *arguments, cwd):
    done = python(folder, "-m", "defm_rl.cli", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("folder", "experiment", "short"),
    [
        ("mujoco", "inverted_pendulum", PPO),
        ("miniworld", "miniworld_hallway", PPO),
        ("pybullet", "panda_reach", ["algo.learning_starts=8"]),
    ],
)
def test_an_example_is_trained_evaluated_and_reported_by_commands_alone(folder, experiment, short, tmp_path):
    probe = python(folder, "-c", _DRAWS[folder])
    if probe.returncode:
        pytest.skip(f"OpenGL does not draw without a display here: {probe.stderr.strip().splitlines()[-1]}")
    example = ["--config-dir", str(EXAMPLES / folder), f"experiment={experiment}"]
    clips = "evaluation.clips=0"
    defm_rl(folder, "train", *example, *SHORT, *short, clips, "hydra.run.dir=run", cwd=tmp_path)
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert metrics["evaluation"]["reward"]["episodes"] == 2
    options = ["sensors=[ideal,stereo]", "episodes=2", "num_envs=2", "frames=8", "clips=0", "report=report"]
    defm_rl(folder, "evaluate", "run", *options, cwd=tmp_path)
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    (policy,) = report["policies"]
    assert set(policy["by_sensor"]) == {"ideal", "stereo"}
    assert (tmp_path / "report" / "report.html").exists()
