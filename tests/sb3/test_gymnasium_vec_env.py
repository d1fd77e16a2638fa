"""A gymnasium vector environment behind SB3's interface."""

import gymnasium
import numpy as np
import pytest
import torch
from fake_envs import ENCODER, PPO_SETTINGS, DepthEnv, TensorVectorEnv, vec_env, vector_env
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, VectorEnv, VectorWrapper
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecMonitor

from defm_rl.gymnasium import SimulateSensor
from defm_rl.sb3 import FeatureProjection, GymnasiumVecEnv, VecEncodeDepth


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
    env.set_attr("episode_steps", 2, indices=[1])
    assert env.get_attr("episode_steps") == [9, 2, 9]
    assert env.env_method("__repr__", indices=1) == [repr(env.get_attr("unwrapped")[1])]
    assert callable(env.get_attr("_observe", indices=[2])[0])


class Core(VectorEnv):
    """Three environments that are vectorized by themselves, as simulators on GPUs are."""

    num_envs = 3
    metadata = {"autoreset_mode": AutoresetMode.SAME_STEP}
    single_observation_space = DepthEnv().observation_space["state"]
    single_action_space = DepthEnv().action_space

    def __init__(self, infos=None):
        self.level, self.speeds, self.limits = "easy", np.array([1.0, 2.0, 3.0]), (1, 2, 3)
        self.infos = infos or {}

    def reset(self, *, seed=None, options=None):
        return np.zeros((3, 3), np.float32), self.infos

    def step(self, actions):
        return np.zeros((3, 3), np.float32), np.zeros(3), np.zeros(3, bool), np.zeros(3, bool), self.infos

    def describe(self, prefix):
        return f"{prefix} {self.level}"

    def action_masks(self):
        return np.eye(3, dtype=bool)

    def distances(self):
        return torch.arange(3.0)

    def compute_reward(self, achieved, desired, info):
        return -np.linalg.norm(achieved - desired, axis=-1)


class Wrapper(VectorWrapper):
    def names(self):
        return ["a", "b", "c"]


def test_a_vector_environment_without_single_ones_answers_for_all():
    env = GymnasiumVecEnv(Wrapper(Core()))
    assert env.render_mode is None
    assert env.get_attr("level") == ["easy"] * 3
    env.set_attr("level", "hard")
    assert env.env_method("describe", "it is") == ["it is hard"] * 3
    assert env.get_attr("speeds", indices=[0, 2]) == [1.0, 3.0]
    env.set_attr("speeds", 7.0, indices=[1])
    assert env.get_attr("speeds") == [1.0, 7.0, 3.0]
    assert env.get_attr("limits", indices=1) == [2]
    assert env.has_attr("action_masks")
    assert not env.has_attr("wheels")
    for name in ("level", "limits"):
        with pytest.raises(NotImplementedError, match=f"one '{name}' for all"):
            env.set_attr(name, "easy", indices=[1])


def test_an_answer_for_each_environment_is_dealt_out():
    env = GymnasiumVecEnv(Wrapper(Core()))
    np.testing.assert_array_equal(np.stack(env.env_method("action_masks")), np.eye(3, dtype=bool))
    np.testing.assert_array_equal(env.env_method("action_masks", indices=[2])[0], [False, False, True])
    assert env.env_method("names") == ["a", "b", "c"]
    assert env.env_method("distances", indices=[1]) == [1.0]


@pytest.mark.parametrize("batch", [1, 3, 5])
def test_an_answer_about_arguments_is_everyones(batch):
    """SB3's replay of hindsight asks one environment for the rewards of a batch, which may have as many rows."""
    goals = np.arange(2.0 * batch).reshape(batch, 2)
    (rewards,) = GymnasiumVecEnv(Core()).env_method("compute_reward", goals, goals * 0, [{}] * batch, indices=[0])
    np.testing.assert_array_equal(rewards, -np.linalg.norm(goals, axis=-1))


def test_environments_in_processes_of_their_own_are_spoken_to_one_by_one(caplog):
    env = GymnasiumVecEnv(AsyncVectorEnv([lambda: DepthEnv()] * 3, autoreset_mode=AutoresetMode.SAME_STEP))
    env.set_attr("episode_steps", 2, indices=[1])
    assert env.get_attr("episode_steps") == [5, 2, 5]
    assert env.get_attr("episode_steps", indices=[1, 2]) == [2, 5]
    env.seed(0)
    state = env.reset()["state"]
    assert len(env.env_method("_observe")) == 3
    assert not caplog.records
    assert len(env.env_method("_observe", indices=[0])) == 1
    assert "in all environments" in caplog.text
    assert not env.has_attr("wheels")  # which must not end the processes
    with pytest.raises(AttributeError, match="no attribute 'drive'"):
        env.env_method("drive")
    assert state.shape == (3, 3)
    env.close()


INFOS = {
    "number": 0.25,
    "zero_d": np.array(4),
    "text": "abc",  # as long as there are environments
    "nothing": None,
    "each": np.array([1.0, 2.0, 3.0]),
    "rows": np.arange(6).reshape(3, 2),
    "longer": np.arange(4),
    "letters": ["a", "b", "c"],
    "list": [1, 2],
    "objects": np.array([{"a": 1}, None, "x"], dtype=object),
    "names": np.array(["x", "y", "z"]),
    "set": {1, 2, 3},
    "nested": {"number": 1, "deep": {"each": np.array([4, 5, 6])}},
    "tensor": torch.tensor([1, 2, 3]),
    "scalar_tensor": torch.tensor(0.5),
    "half_rows": torch.ones(3, 2, dtype=torch.bfloat16),
    "some": np.array([7, 0, 0]),
    "_some": np.array([True, False, False]),
    "some_tensor": torch.tensor([7, 0, 0]),
    "_some_tensor": torch.tensor([True, False, False]),
    "_private": np.array([0.5, 1.5, 2.5]),
    "_orphan": np.array([True, False, True]),
    5: "a key that is no string",
}


def test_whatever_infos_hold_passes():
    env = GymnasiumVecEnv(Core(INFOS))
    env.reset()
    _, _, _, infos = env.step(np.zeros((3, 2)))
    np.testing.assert_equal(env.reset_infos, [{k: v for k, v in x.items() if "TimeLimit" not in str(k)} for x in infos])
    np.testing.assert_equal(
        infos[1],
        {
            "number": 0.25,
            "zero_d": 4,
            "text": "abc",
            "nothing": None,
            "each": 2.0,
            "rows": np.array([2, 3]),
            "longer": np.arange(4),
            "letters": "b",
            "list": [1, 2],
            "objects": None,
            "names": "y",
            "set": {1, 2, 3},
            "nested": {"number": 1, "deep": {"each": 5}},
            "tensor": 2,
            "scalar_tensor": 0.5,
            "half_rows": np.ones(2, np.float32),
            "_private": 1.5,
            "_orphan": False,
            5: "a key that is no string",
            "TimeLimit.truncated": False,
        },
    )
    assert infos[0]["some"] == infos[0]["some_tensor"] == 7


@pytest.mark.parametrize("batch", [False, True])
def test_tensors_and_nested_dicts_become_what_sb3_takes(batch):
    """The same as an environment with arrays and a flat dict."""
    settings = {"num_envs": 3, "episode_steps": 2, "cameras": ("base", "hand")}
    ours = GymnasiumVecEnv(TensorVectorEnv(vector_env(nested=True, **settings), batch))
    theirs = vec_env(**settings, seed=None)
    paths = {"base": "sensor_data/base/depth", "hand": "sensor_data/hand/depth", "state": "state"}
    assert ours.observation_space == spaces.Dict({paths[key]: x for key, x in theirs.observation_space.items()})
    for env in (ours, theirs):
        env.seed(7)
    np.testing.assert_equal(ours.reset(), {paths[key]: x for key, x in theirs.reset().items()})
    for _ in range(4):
        actions = np.random.default_rng(0).uniform(-1, 1, (3, 2)).astype(np.float32)
        (obs, rewards, dones, infos), (obs_, rewards_, dones_, infos_) = ours.step(actions), theirs.step(actions)
        np.testing.assert_equal(obs, {paths[key]: x for key, x in obs_.items()})
        np.testing.assert_array_equal(rewards, rewards_)
        np.testing.assert_array_equal(dones, dones_)
        for i in np.flatnonzero(dones):
            last = infos_[i]["terminal_observation"]
            np.testing.assert_equal(infos[i]["terminal_observation"], {paths[key]: x for key, x in last.items()})
            assert infos[i]["TimeLimit.truncated"]


def test_a_policy_learns_from_tensors_in_nested_dicts():
    inner = SimulateSensor(TensorVectorEnv(vector_env(nested=True, episode_steps=3)), "stereo")
    env = VecEncodeDepth(GymnasiumVecEnv(inner), **ENCODER)
    PPO("MultiInputPolicy", env, **PPO_SETTINGS, policy_kwargs={"features_extractor_class": FeatureProjection}).learn(8)


def test_final_infos_of_single_environments_are_understood():
    """As gymnasium had them before 1.0: an array of dicts."""

    class Ending(Core):
        def step(self, actions):
            observations, rewards, _, truncated, _ = super().step(actions)
            last = np.array([None, observations[1], None], dtype=object)
            final_infos = np.array([None, {"success": True}, None], dtype=object)
            infos = {"final_obs": last, "final_info": final_infos, "_final_info": np.array([False, True, False])}
            return observations, rewards, np.array([False, True, False]), truncated, infos

    env = GymnasiumVecEnv(Ending())
    env.reset()
    infos = env.step(np.zeros((3, 2)))[3]
    assert infos[0] == {"TimeLimit.truncated": False}
    assert infos[1]["success"] is True


@pytest.mark.parametrize("part", [spaces.Tuple([spaces.Discrete(2)]), spaces.Text(3)], ids=["tuple", "text"])
def test_observations_that_sb3_does_not_take_are_refused(part):
    class Odd(Core):
        single_observation_space = spaces.Dict(state=spaces.Box(-1, 1, (3,)), odd=spaces.Dict(part=part))

    with pytest.raises(ValueError, match=r"SB3 takes observations of Box.* 'odd/part' is"):
        GymnasiumVecEnv(Odd())


def test_binary_and_discrete_observations_stand_beside_depth():
    space = spaces.Dict(
        depth=spaces.Box(0, 10, (1, 32, 32)),
        buttons=spaces.MultiBinary(4),
        gait=spaces.Discrete(3),
        legs=spaces.MultiDiscrete([2, 3]),
    )

    class Robot(gymnasium.Env):
        observation_space, action_space = space, spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, False, {}

    env = gymnasium.vector.SyncVectorEnv([Robot] * 2, autoreset_mode=AutoresetMode.SAME_STEP)
    env = VecEncodeDepth(GymnasiumVecEnv(env), **ENCODER)
    PPO("MultiInputPolicy", env, **PPO_SETTINGS).learn(8)


def test_ppo_learns_from_episode_statistics():
    env = VecMonitor(GymnasiumVecEnv(vector_env(num_envs=2, episode_steps=4)), info_keywords=("success", "spl"))
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, n_epochs=1, seed=0, device="cpu").learn(16)
    episodes = list(model.ep_info_buffer)
    assert len(episodes) == 4
    assert episodes[0]["l"] == 4
    assert episodes[0]["success"] is True
    assert episodes[0]["spl"] == 0.5
