"""Simulated cameras inside SB3's vectorized environments."""

import numpy as np
import pytest
from fake_envs import ENCODER, PPO_SETTINGS, NumberedEnv, vec_env, vector_env
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from defm_rl.gymnasium import SimulateSensor
from defm_rl.sb3 import VecEncodeDepth, VecSimulateSensor
from defm_rl.sensors import make_sensor


@pytest.mark.parametrize("settings", [{}, {"box": True}, {"millimetres": True}], ids=["dict", "box", "millimetres"])
def test_a_simulated_camera_shows_what_it_shows_in_gymnasium(settings):
    """Late and noisy, and at the ends of episodes what it showed then, not what there was to see."""
    camera = {"sensor": make_sensor("stereo", delay_steps=(1, 2)), "unit": "mm" if "millimetres" in settings else "m"}
    theirs = SimulateSensor(vector_env(num_envs=3, episode_steps=3, **settings), **camera)
    ours = VecSimulateSensor(vec_env(num_envs=3, seed=None, episode_steps=3, **settings), **camera)
    assert ours.observation_space == theirs.single_observation_space
    ours.seed(5)
    np.testing.assert_equal(ours.reset(), theirs.reset(seed=5)[0])
    ends = 0
    for _ in range(7):
        observations, _, _, _, vector_infos = theirs.step(np.zeros((3, 2)))
        seen, _, dones, infos = ours.step(np.zeros((3, 2)))
        np.testing.assert_equal(seen, observations)
        for i in np.flatnonzero(dones):
            np.testing.assert_equal(infos[i]["terminal_observation"], vector_infos["final_obs"][i])
            ends += 1
    assert ends == 6


def test_a_simulated_camera_begins_its_random_numbers_anew_with_a_seed_only():
    env = VecSimulateSensor(vec_env(), "stereo")
    env.seed(3)
    first, second = env.reset()["depth"] == 0, env.reset()["depth"] == 0
    env.seed(3)
    np.testing.assert_array_equal(env.reset()["depth"] == 0, first)
    assert not np.array_equal(second, first)


def test_a_numbered_layout_is_seen_alike_in_every_environment():
    def frames(*layouts):
        """What is shown of layout 77, which is the last one's last."""
        env = DummyVecEnv([lambda own=own: NumberedEnv(own) for own in layouts])
        env = VecSimulateSensor(env, make_sensor("realsense_parkour", max_depth_m=6.0), step_s=0.05)
        shown = [env.reset()["depth"][-1]]
        for _ in range(sum(3 + layout % 4 for layout in layouts[-1]) - 1):
            shown.append(env.step(np.zeros((len(layouts), 2)))[0]["depth"][-1])
        return shown[-3 - 77 % 4 :]

    np.testing.assert_array_equal(frames([77]), frames([1], [3, 2], [8, 6, 77]))


def test_a_policy_learns_behind_a_simulated_camera():
    env = VecSimulateSensor(vec_env(episode_steps=3), "realsense_parkour", step_s=0.05)
    env = VecEncodeDepth(env, **ENCODER)
    PPO("MultiInputPolicy", env, **PPO_SETTINGS).learn(8)


def test_a_simulated_camera_refuses_standardised_depth_and_stacked_frames():
    with pytest.raises(ValueError, match="VecNormalize standardises depth"):
        VecSimulateSensor(VecNormalize(vec_env()), "stereo")
    with pytest.raises(ValueError, match="before stacking"):
        VecSimulateSensor(vec_env(shape=(4, 32, 32)), "stereo", depth_keys=["depth"])
