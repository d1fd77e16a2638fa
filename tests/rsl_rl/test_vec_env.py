"""What RSL-RL is told is what the environments said."""

import numpy as np
import pytest
import torch
from fake_envs import TensorVectorEnv, vector_env
from gymnasium.vector import AutoresetMode
from runs import STEPS, environment, ppo, rollout

from defm_rl.rsl_rl import RslRlVecEnv


def actions(value=0.5, num_envs=2):
    return torch.full((num_envs, 2), value)


def test_every_key_becomes_a_group_in_its_own_dtype():
    env = environment(cameras=("depth", "wrist"))
    obs = env.get_observations()
    assert {key: x.dtype for key, x in obs.items()} == {
        "depth": torch.float16,
        "wrist": torch.float16,
        "state": torch.float32,
    }
    raw = RslRlVecEnv(vector_env(millimetres=True), seed=0)
    assert raw.get_observations()["depth"].dtype == torch.uint16
    assert (raw.num_envs, raw.num_actions) == (2, 2)


def test_observations_are_those_of_the_environment_and_are_not_overwritten():
    env, same = RslRlVecEnv(vector_env(copy=False), seed=3), vector_env(copy=False)
    expected = same.reset(seed=3)[0]["depth"].copy()
    first = env.get_observations()
    env.step(actions())
    assert np.array_equal(first["depth"].numpy(), expected)
    assert np.array_equal(env.get_observations()["depth"].numpy(), same.step(actions().numpy())[0]["depth"])


@pytest.mark.parametrize(
    ("ends", "time_out"), [(("truncated",), True), (("terminated",), False), (("truncated", "terminated"), False)]
)
def test_only_episodes_that_were_cut_off_are_time_outs(ends, time_out):
    env = RslRlVecEnv(vector_env(episode_steps=2, ends=ends), seed=0)
    _, rewards, dones, extras = env.step(actions())
    assert rewards.tolist() == [0.5, 0.5]
    assert not dones.any()
    assert not extras["time_outs"].any()
    assert env.episode_length_buf.tolist() == [1, 1]
    assert "log" not in extras
    _, _, dones, extras = env.step(actions())
    assert dones.tolist() == [1, 1]
    assert extras["time_outs"].tolist() == [time_out, time_out]
    assert extras["log"] == {"Episode/success": 1.0, "Episode/spl": 0.5}
    assert env.episode_length_buf.tolist() == [0, 0]


def test_actions_are_clipped_to_the_space():
    _, rewards, _, _ = RslRlVecEnv(vector_env(), seed=0).step(actions(7.0))
    assert rewards.tolist() == [1.0, 1.0]


def test_a_time_out_is_bootstrapped_with_the_value_before_it():
    """Rewards and returns of one rollout, computed anew from what was observed."""
    runner = ppo(environment(episode_steps=3), algorithm={"gamma": 0.9, "lam": 0.8})
    rollout(runner)
    storage = runner.alg.storage
    rewards = storage.actions.clamp(-1, 1).mean(-1, keepdim=True)
    ended = torch.zeros(STEPS)
    ended[2::3] = 1
    bootstrapped = rewards + 0.9 * storage.values * ended.view(-1, 1, 1)
    assert torch.allclose(storage.rewards, bootstrapped, atol=1e-6)

    with torch.no_grad():
        values = torch.cat([storage.values, runner.alg.critic(runner.env.get_observations())[None]])
    advantage = torch.zeros_like(values[0])
    for step in reversed(range(STEPS)):
        goes_on = 1 - ended[step]
        delta = bootstrapped[step] + goes_on * 0.9 * values[step + 1] - values[step]
        advantage = delta + goes_on * 0.9 * 0.8 * advantage
        assert torch.allclose(storage.returns[step], advantage + values[step], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: vector_env(mode=AutoresetMode.NEXT_STEP), "same-step autoreset"),
        (lambda: vector_env(box=True), "must be a Dict"),
        (lambda: vector_env(discrete=True), "actions must be a Box"),
        (lambda: vector_env(discrete_key=True), "'gait' must be a Box"),
    ],
)
def test_environments_that_do_not_fit_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        RslRlVecEnv(make())


def test_episodes_cannot_begin_in_the_middle():
    with pytest.raises(NotImplementedError, match="init_at_random_ep_len=False"):
        ppo(environment()).learn(1, init_at_random_ep_len=True)


@pytest.mark.parametrize("nested", [False, True])
def test_environments_with_tensors_and_nested_dicts_say_the_same(nested):
    """`TensorVectorEnv` takes tensors only, and its own cannot be read by NumPy."""
    ours = RslRlVecEnv(TensorVectorEnv(vector_env(episode_steps=2, nested=nested)), seed=3)
    theirs = RslRlVecEnv(vector_env(episode_steps=2), seed=3)
    names = {"depth": "sensor_data/depth/depth" if nested else "depth", "state": "state"}
    for value in (0.25, 7.0, -7.0, 0.5):
        (obs, rewards, dones, extras), (obs_, rewards_, dones_, extras_) = (
            env.step(actions(value)) for env in (ours, theirs)
        )
        assert set(obs.keys()) == set(names.values())
        for key, name in names.items():
            assert obs[name].dtype == obs_[key].dtype
            assert torch.equal(obs[name], obs_[key])
        assert torch.equal(rewards, rewards_)
        assert torch.equal(dones, dones_)
        assert torch.equal(extras["time_outs"], extras_["time_outs"])
        assert extras.get("log") == extras_.get("log")
    assert extras["log"]["Episode/success"] == 1.0
