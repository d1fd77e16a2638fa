"""A gymnasium vector environment behind SB3's interface."""

import gymnasium
import numpy as np
import pytest
from fake_envs import DepthEnv, vec_env, vector_env
from gymnasium.vector import AutoresetMode
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor

from defm_rl.sb3 import GymnasiumVecEnv


@pytest.mark.parametrize("ends", [("truncated",), ("terminated",), ("truncated", "terminated")])
def test_gives_what_sb3s_own_vectorized_environment_gives(ends):
    settings = {"num_envs": 3, "ends": ends, "episode_steps": 2}
    ours, theirs = GymnasiumVecEnv(vector_env(**settings)), vec_env(**settings, seed=None)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    for env in (ours, theirs):
        env.seed(7)
    for a, b in zip(ours.reset().values(), theirs.reset().values(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert ours.reset_infos == theirs.reset_infos
    for _ in range(5):
        actions = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)
        (obs, rewards, dones, infos), (obs_, rewards_, dones_, infos_) = ours.step(actions), theirs.step(actions)
        np.testing.assert_equal(obs, obs_)
        np.testing.assert_array_equal(rewards, rewards_)
        assert rewards.dtype == np.float32
        np.testing.assert_array_equal(dones, dones_)
        for info, info_ in zip(infos, infos_, strict=True):
            reset_only = {"layout": info.pop("layout")} if "layout" in info else {}
            np.testing.assert_equal(info, info_)
            assert not reset_only or "terminal_observation" in info
        assert ours.reset_infos == theirs.reset_infos


def test_other_autoreset_modes_are_refused():
    with pytest.raises(ValueError, match="SAME_STEP"):
        GymnasiumVecEnv(vector_env(mode=AutoresetMode.NEXT_STEP))


def test_observations_are_fresh_where_the_environment_reuses_its_arrays():
    env = GymnasiumVecEnv(vector_env(copy=False))
    first = env.reset()
    kept = {key: value.copy() for key, value in first.items()}
    env.step(np.zeros((2, 2), np.float32))
    np.testing.assert_equal(first, kept)


def test_seed_counts_once_and_options_reach_the_environments():
    env = GymnasiumVecEnv(vector_env(num_envs=2))
    assert list(env.seed(3)) == [3, 4]
    env.set_options({"level": "hard"})
    first = env.reset()
    assert [info["level"] for info in env.reset_infos] == ["hard", "hard"]
    second = env.reset()
    assert not np.array_equal(first["depth"], second["depth"])
    assert "level" not in env.reset_infos[0]
    env.seed(3)
    np.testing.assert_equal(env.reset(), first)


def test_attributes_and_methods_reach_the_environments():
    env = GymnasiumVecEnv(vector_env(num_envs=3))
    assert env.get_attr("episode_steps") == [5, 5, 5]
    assert env.get_attr("episode_steps", indices=[0, 2]) == [5, 5]
    env.set_attr("episode_steps", 9)
    assert env.get_attr("episode_steps") == [9, 9, 9]
    assert len(env.env_method("_observe")) == 3
    assert env.has_attr("episode_steps")
    assert not env.has_attr("wheels")
    assert env.env_is_wrapped(Monitor) == [False] * 3
    with pytest.raises(NotImplementedError, match="as a whole"):
        env.env_method("_observe", indices=[1])


def test_a_vector_environment_without_single_ones_answers_for_all():
    class Core(gymnasium.vector.VectorEnv):
        num_envs = 2
        metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
        single_observation_space = DepthEnv().observation_space["state"]
        single_action_space = DepthEnv().action_space
        level = "easy"

        def describe(self, prefix):
            return f"{prefix} {self.level}"

    env = GymnasiumVecEnv(gymnasium.vector.VectorWrapper(Core()))
    assert env.render_mode is None
    assert env.get_attr("level") == ["easy", "easy"]
    env.set_attr("level", "hard")
    assert env.env_method("describe", "it is") == ["it is hard"] * 2


def test_ppo_learns_from_episode_statistics():
    env = VecMonitor(GymnasiumVecEnv(vector_env(num_envs=2, episode_steps=4)), info_keywords=("success", "spl"))
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu").learn(16)
    episodes = list(model.ep_info_buffer)
    assert len(episodes) == 4
    assert episodes[0]["l"] == 4
    assert episodes[0]["success"] is True
    assert episodes[0]["spl"] == 0.5
