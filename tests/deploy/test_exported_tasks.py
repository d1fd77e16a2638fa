"""From a run of a task that others wrote to its own loop: frames as the task gives them, and its own actions."""

import gymnasium as gym
import numpy as np
import pytest
import their_tasks  # noqa: F401  registers the tasks

from defm_rl import cli
from defm_rl.commands import train
from defm_rl.deploy import FrameError, Policy
from defm_rl.deploy.driving import success
from defm_rl.experiments.evaluation import load
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import make_task

pytestmark = pytest.mark.slow

THEIRS = ["env=gymnasium", "env.id=their_tasks:their/WhichSide-v0", "env.num_envs=4"]
ENCODER = ["encoder=custom", "encoder.class_name=own_networks:Vector", "encoder.weights=random"]
SHORT = ["evaluation.episodes=4", "evaluation.clips=0", "algo.total_steps=64"]
SB3 = [*ENCODER, *SHORT, "algo.n_steps=8", "algo.batch_size=16", "algo.n_epochs=1"]
RSL_RL = [*ENCODER, *SHORT, "algo=rsl_ppo", "algo.num_steps_per_env=8"]
MILLIMETRES = ["env.id=their_tasks:their/Counts-v0", "env.depth_unit=mm", "env.max_depth_m=4"]
Z_BUFFER = ["env.render_depth=true", "env.kwargs.image=false", "env.near=0.1", "env.far=20"]


def exported(folder, *overrides):
    assert train.main([*THEIRS, *overrides, f"hydra.run.dir={folder}"]) == 0
    assert cli.main(["export", str(folder)]) == 0
    return folder


def acts_as_in_the_run(folder, given, key):
    """The file, on what the task itself gives, against the run's policy on what experiments make of it."""
    run = Run(folder)
    config, policy, encoder = load(run)
    keys = (*config.encoder.cameras, *config.algo.observations)
    env = make_task(config.env).make_encoded(keys, config.encoder, encoder, num_envs=1, layouts=[7])
    seen, _ = env.reset()
    env.close()
    policy.reset()
    expected = np.clip(policy.act(seen), -1.0, 1.0)[0]
    file = Policy(folder / "policy.onnx", clock=None)
    action = file.act(**{key: given, "joints": np.zeros(2)})
    np.testing.assert_allclose(action, expected, atol=0.02)  # its features were rounded to float16 for its buffers
    return file, action


def test_the_contract_says_what_is_known_and_the_file_drives_as_the_run_does(tmp_path):
    folder = exported(tmp_path / "run", *SB3, "env.kwargs.nested=true", "env.horizontal_fov_deg=70")
    figures = success(folder, folder / "policy.onnx", 4)
    assert figures["run"]["success_rate"] == figures["file"]["success_rate"]
    env = gym.make("their/WhichSide-v0", nested=True)
    observation, _ = env.reset(seed=7)
    key = "camera/front"
    file, action = acts_as_in_the_run(folder, observation["camera"]["front"][..., 0], key)
    (wanted,) = file.contract.depth
    assert (wanted.name, wanted.sent, wanted.far_m) == (key, "m", None)
    assert wanted.camera.fov_deg[0] == pytest.approx(70.0)
    assert file.contract.vectors[0].entries == ("joints[0]", "joints[1]")
    assert file.contract.action.entries == ("action[0]",)
    assert file.contract.step_s == pytest.approx(0.1)
    command = file.command(action)
    np.testing.assert_allclose(command, 2 * action)
    env.step(command)


@pytest.mark.parametrize(("algorithm", "task"), [(RSL_RL, MILLIMETRES), (SB3, Z_BUFFER)], ids=["mm", "z-buffer"])
def test_frames_go_in_as_the_task_gives_them(tmp_path, algorithm, task):
    folder = exported(tmp_path / "run", *algorithm, *task)
    is_z_buffer = task is Z_BUFFER
    key = "depth" if is_z_buffer else "front"
    name = "their/WhichSide-v0" if is_z_buffer else "their/Counts-v0"
    env = gym.make(name, render_mode="depth_array")
    observation, _ = env.reset(seed=7)
    file, action = acts_as_in_the_run(folder, env.render() if is_z_buffer else observation["front"], key)
    (wanted,) = file.contract.depth
    expected = ("z-buffer", 0.1, 20.0) if is_z_buffer else ("mm", None, None)
    assert (wanted.sent, wanted.near_m, wanted.far_m) == expected
    assert wanted.max_depth_m == (None if is_z_buffer else 4.0)
    # A real camera sends metres, and says so.
    metres = Policy(folder / "policy.onnx", depth_unit="m", clock=None)
    depth = env.unwrapped.depth()
    np.testing.assert_allclose(metres.act(**{key: depth, "joints": np.zeros(2)}), action, atol=1e-5)
    if is_z_buffer:
        with pytest.raises(ValueError, match="z-buffer"):
            file.act(depth=depth, joints=np.zeros(2))
    else:  # beyond the limit there are holes
        far = np.full_like(depth, 5.0)
        with pytest.raises(FrameError):
            metres.act(front=far, joints=np.zeros(2))
