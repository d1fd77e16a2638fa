"""Every algorithm of SB3 and sb3-contrib that takes features trains on depth that was encoded in the environment."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from fake_envs import ENCODER, DepthEnv
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from sb3_contrib import ARS, QRDQN, TQC, TRPO, CrossQ, MaskablePPO, RecurrentPPO
from stable_baselines3 import A2C, DDPG, DQN, PPO, SAC, TD3, HerReplayBuffer
from stable_baselines3.common.vec_env import DummyVecEnv

from defm_rl import DepthEncoder
from defm_rl.sb3 import FeatureProjection, GymnasiumVecEnv, VecEncodeDepth

ROLLOUT = {"n_steps": 8}
MINIBATCHES = {**ROLLOUT, "batch_size": 8}
REPLAY = {"learning_starts": 8, "batch_size": 8, "buffer_size": 100}
ALGORITHMS: list[tuple[Any, dict[str, Any]]] = [
    (A2C, ROLLOUT),
    (ARS, {"n_delta": 2, "n_eval_episodes": 1}),
    (CrossQ, REPLAY),
    (DDPG, REPLAY),
    (DQN, REPLAY),
    (MaskablePPO, {**MINIBATCHES, "n_epochs": 1}),
    (PPO, {**MINIBATCHES, "n_epochs": 1}),
    (QRDQN, REPLAY),
    (RecurrentPPO, {**MINIBATCHES, "n_epochs": 1}),
    (SAC, REPLAY),
    (SAC, {**REPLAY, "replay_buffer_class": HerReplayBuffer}),
    (TD3, REPLAY),
    (TQC, REPLAY),
    (TRPO, {**MINIBATCHES, "line_search_max_iter": 2}),
]
VEC_ENVS = {
    "DummyVecEnv": DummyVecEnv,
    "GymnasiumVecEnv": lambda envs: GymnasiumVecEnv(SyncVectorEnv(envs, autoreset_mode=AutoresetMode.SAME_STEP)),
}
NAMES = ["HER" if "replay_buffer_class" in settings else algorithm.__name__ for algorithm, settings in ALGORITHMS]
POLICIES = {ARS: "LinearPolicy", CrossQ: "MlpPolicy", RecurrentPPO: "MultiInputLstmPolicy"}
ALLOWED = np.array([True, False])  # of the two discrete actions

pytestmark = pytest.mark.usefixtures("untraced")


class Goals(gym.ObservationWrapper):
    """Depth as the observation of an environment with goals, as `HerReplayBuffer` takes it."""

    GOAL = spaces.Box(-1.0, 1.0, (3,), np.float32)

    def __init__(self, env):
        super().__init__(env)
        depth = env.observation_space["depth"]
        self.observation_space = spaces.Dict(observation=depth, achieved_goal=self.GOAL, desired_goal=self.GOAL)

    def observation(self, observation):
        goal = np.zeros(3, np.float32)
        return {"observation": observation["depth"], "achieved_goal": observation["state"], "desired_goal": goal}

    def compute_reward(self, achieved_goal, desired_goal, info):
        return -np.linalg.norm(achieved_goal - desired_goal, axis=-1)


class Masked(gym.Wrapper):
    """Refuses the action that its mask forbids."""

    def action_masks(self):
        return ALLOWED

    def step(self, action):
        assert ALLOWED[action], "an action was taken that the mask forbids"
        return self.env.step(action)


def make_env(algorithm, settings):
    env = DepthEnv(episode_steps=3, discrete=algorithm in (DQN, MaskablePPO, QRDQN), box=algorithm in (ARS, CrossQ))
    if "replay_buffer_class" in settings:
        return Goals(env)
    return Masked(env) if algorithm is MaskablePPO else env


@pytest.fixture(scope="module")
def encoder():
    return DepthEncoder(**ENCODER)


@pytest.mark.parametrize("vec_env", VEC_ENVS)
@pytest.mark.parametrize(("algorithm", "settings"), ALGORITHMS, ids=NAMES)
@pytest.mark.sweep(3)
def test_algorithm_trains_on_encoded_depth_and_loads_to_the_same_actions(
    algorithm, settings, vec_env, encoder, tmp_path
):
    def environments():
        return VecEncodeDepth(VEC_ENVS[vec_env]([lambda: make_env(algorithm, settings)] * 2), encoder)

    policy_kwargs = {"features_extractor_class": FeatureProjection, "features_extractor_kwargs": {"latent_dim": 8}}
    if algorithm is ARS:  # has no features extractor
        policy_kwargs = {}
    elif algorithm is RecurrentPPO:
        policy_kwargs["lstm_hidden_size"] = 8
    settings = {**settings, "policy_kwargs": policy_kwargs, "device": "cpu", "seed": 0}
    model = algorithm(POLICIES.get(algorithm, "MultiInputPolicy"), environments(), **settings).learn(24)
    buffer = getattr(model, "rollout_buffer", None) or getattr(model, "replay_buffer", None)
    if buffer is not None:
        held = buffer.observations.values() if isinstance(buffer.observations, dict) else [buffer.observations]
        assert ("float16", encoder.feature_dim) in {(x.dtype.name, x.shape[-1]) for x in held}
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=environments(), device="cpu")
    observations = environments().reset()
    kwargs = {"action_masks": np.tile(ALLOWED, (2, 1))} if algorithm is MaskablePPO else {}
    expected = model.predict(observations, deterministic=True, **kwargs)[0]
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True, **kwargs)[0], expected)
    if hasattr(loaded, "learning_starts"):
        loaded.learning_starts += loaded.num_timesteps  # the replay buffer is not saved
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps > model.num_timesteps
