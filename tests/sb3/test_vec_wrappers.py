"""Depth encoded once, or normalized, inside SB3's vectorized environments."""

import warnings

import numpy as np
import pytest
import torch
from fake_envs import ENCODER, vec_env
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecFrameStack, VecNormalize

from defm_rl import DepthEncoder, normalize_depth
from defm_rl.depth import ScaleWarning
from defm_rl.sb3 import FeatureProjection, VecEncodeDepth, VecNormalizeDepth, VecNormalizeFeatures

SMALL_PPO = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu", "seed": 0}
SMALL_REPLAY = {"learning_starts": 4, "batch_size": 4, "buffer_size": 20, "device": "cpu", "seed": 0}


@pytest.fixture(scope="module")
def encoder():
    return DepthEncoder(**ENCODER)


def zeros(env):
    return np.zeros((env.num_envs, *env.action_space.shape), env.action_space.dtype)


def close(features, expected):
    np.testing.assert_allclose(np.asarray(features, np.float32), expected.numpy(), rtol=1e-3, atol=2e-3)


@pytest.mark.parametrize("box", [False, True])
def test_features_take_the_place_of_depth(encoder, box):
    raw, env = vec_env(box=box), VecEncodeDepth(vec_env(box=box), encoder)
    before, after = raw.reset(), env.reset()
    assert env.observation_space.contains({k: v[0] for k, v in after.items()} if not box else after[0])
    depth, features = (before, after) if box else (before["depth"], after["depth"])
    assert features.shape == (2, encoder.feature_dim)
    assert features.dtype == np.float16
    close(features, encoder.encode(depth))
    if not box:
        np.testing.assert_array_equal(before["state"], after["state"])


@pytest.mark.parametrize("box", [False, True])
def test_terminal_observations_are_encoded_too(encoder, box):
    raw, env = vec_env(box=box, episode_steps=2), VecEncodeDepth(vec_env(box=box, episode_steps=2), encoder)
    raw.reset(), env.reset()
    for ends in (False, True):
        _, _, dones, infos_before = raw.step(zeros(raw))
        after, _, _, infos_after = env.step(zeros(env))
        assert dones.all() == ends
        assert len(after if box else after["depth"]) == 2
    for info_before, info_after in zip(infos_before, infos_after, strict=True):
        last_before, last_after = info_before["terminal_observation"], info_after["terminal_observation"]
        close(
            last_after if box else last_after["depth"], encoder.encode(last_before if box else last_before["depth"])[0]
        )
        assert info_after["TimeLimit.truncated"]
        if not box:
            np.testing.assert_array_equal(last_before["state"], last_after["state"])


def test_observations_are_fresh_arrays(encoder):
    env = VecEncodeDepth(vec_env(), encoder)
    first = env.reset()["depth"]
    kept = first.copy()
    env.step(zeros(env))
    np.testing.assert_array_equal(first, kept)


def test_several_cameras_millimetres_and_discrete_keys():
    settings = {"cameras": ("left", "right"), "millimetres": True, "discrete_key": True}
    env = VecEncodeDepth(vec_env(**settings), **ENCODER, unit="mm", features="P4", pool="columns")
    before, after = vec_env(**settings).reset(), env.reset()
    for camera in ("left", "right"):
        close(after[camera], env.encoder.encode(before[camera].astype(np.float32)))
    np.testing.assert_array_equal(before["gait"], after["gait"])


def test_integers_are_refused_as_metres():
    with pytest.raises(TypeError, match="mm"):
        VecEncodeDepth(vec_env(millimetres=True), **ENCODER).reset()


@pytest.mark.parametrize("order", ["before", "after"])
def test_frames_can_be_stacked_before_or_after_encoding(encoder, order):
    if order == "before":
        stacked = VecFrameStack(vec_env(box=True, episode_steps=2), 3, channels_order="first")
        env = VecEncodeDepth(stacked, encoder)
    else:
        env = VecFrameStack(VecEncodeDepth(vec_env(box=True, episode_steps=2), encoder), 3)
    assert env.observation_space.shape == (3 * encoder.feature_dim,)
    raw = vec_env(box=True, episode_steps=2)
    frames = [raw.reset(), raw.step(zeros(raw))[0]]
    env.reset()
    observations = env.step(zeros(env))[0]
    newest = np.split(observations, 3, axis=1)[1:]
    for features, frame in zip(newest, frames, strict=True):
        close(features, encoder.encode(frame))
    _, _, dones, infos = env.step(zeros(env))
    assert dones.all()
    last = raw.step(zeros(raw))[3][0]["terminal_observation"]
    close(np.split(infos[0]["terminal_observation"], 3)[2], encoder.encode(last)[0])


def test_features_beyond_float16_are_clipped(encoder, monkeypatch):
    env = VecEncodeDepth(vec_env(box=True), encoder)
    monkeypatch.setattr(encoder, "encode", lambda depth: torch.full((len(depth), encoder.feature_dim), 1e6))
    assert np.isfinite(env.reset()).all()


def test_depth_that_looks_normalised_gets_one_warning(encoder):
    class Scaled(VecNormalize):
        def _normalize_obs(self, obs, obs_rms):
            return obs / 5.0

    env = VecEncodeDepth(Scaled(vec_env(num_envs=64, box=True, episode_steps=99)), encoder)
    env.reset()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(6):
            env.step(zeros(env))
    assert [warning.category for warning in caught] == [ScaleWarning]


@pytest.mark.parametrize("settings", [{"trainable": "all"}, {"features": "P4", "pool": "attention"}])
def test_an_encoder_that_learns_is_refused(settings):
    with pytest.raises(ValueError, match="DefmExtractor"):
        VecEncodeDepth(vec_env(), **ENCODER, **settings)


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (PPO, SMALL_PPO),
        (A2C, {"n_steps": 8, "device": "cpu"}),
        (SAC, SMALL_REPLAY),
        (TD3, SMALL_REPLAY),
        (DQN, SMALL_REPLAY),
    ],
)
def test_algorithms_train_on_encoded_features_and_load_to_the_same_actions(encoder, algorithm, settings, tmp_path):
    def make_env():
        return VecEncodeDepth(vec_env(discrete=algorithm is DQN, episode_steps=3), encoder)

    model = algorithm("MultiInputPolicy", make_env(), policy_kwargs={"net_arch": [8]}, **settings).learn(16)
    buffer = getattr(model, "rollout_buffer", None) or model.replay_buffer
    assert buffer.observations["depth"].dtype == np.float16
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=make_env(), device="cpu")
    observations = make_env().reset()
    expected = model.predict(observations, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observations, deterministic=True)[0], expected)
    loaded.learn(16, reset_num_timesteps=False)
    assert loaded.num_timesteps == 32


@pytest.mark.parametrize(
    ("settings", "other_settings"),
    [({}, {"seed": 1}), ({"features": "P4", "grid": (2, 4)}, {"features": "P4", "grid": (4, 2)})],
)
def test_a_policy_refuses_features_of_other_weights_and_settings(settings, other_settings, tmp_path):
    model = PPO("MultiInputPolicy", VecEncodeDepth(vec_env(), **ENCODER, **settings), **SMALL_PPO)
    model.save(tmp_path / "model")
    other = VecEncodeDepth(vec_env(), **ENCODER, **other_settings)
    with pytest.raises(ValueError, match="sha256"):
        PPO.load(tmp_path / "model", env=other, device="cpu")


def test_value_of_a_timed_out_state_is_that_of_its_encoded_observation(encoder):
    """PPO adds gamma * V(terminal observation) to the last reward, which is 0 here."""
    env = VecEncodeDepth(vec_env(num_envs=1, episode_steps=8), encoder)
    model = PPO("MultiInputPolicy", env, gamma=0.5, policy_kwargs={"net_arch": [8]}, **SMALL_PPO)
    last = []
    step_wait = env.step_wait

    def watched():
        observations, rewards, dones, infos = step_wait()
        last.extend(info["terminal_observation"] for info in infos if "terminal_observation" in info)
        return observations, rewards * 0, dones, infos

    env.step_wait = watched
    model.learn(8)
    bootstrapped = model.rollout_buffer.rewards[-1, 0]
    fresh = PPO("MultiInputPolicy", env, policy_kwargs={"net_arch": [8]}, **SMALL_PPO)
    value = fresh.policy.predict_values(fresh.policy.obs_to_tensor(last[0])[0]).item()
    assert bootstrapped == pytest.approx(0.5 * value, rel=1e-4)
    assert value != 0.0


def test_standardised_features_train_through_a_projection(encoder, tmp_path):
    def make_env():
        return VecEncodeDepth(vec_env(), encoder)

    env = VecNormalizeFeatures(make_env(), norm_obs_keys=["depth"], norm_reward=False, clip_obs=5.0)
    policy_kwargs = {"features_extractor_class": FeatureProjection, "features_extractor_kwargs": {"latent_dim": 16}}
    model = PPO("MultiInputPolicy", env, policy_kwargs=policy_kwargs, **SMALL_PPO).learn(32)
    assert model.policy.features_extractor.features_dim == 16 + 3
    assert model.rollout_buffer.observations["depth"].dtype == np.float16
    assert abs(model.rollout_buffer.observations["depth"]).max() <= 5.0
    env.save(tmp_path / "statistics.pkl")
    loaded = VecNormalize.load(tmp_path / "statistics.pkl", make_env())
    observations = make_env().reset()
    np.testing.assert_array_equal(loaded.normalize_obs(observations)["depth"], env.normalize_obs(observations)["depth"])
    np.testing.assert_array_equal(loaded.normalize_obs(observations)["state"], observations["state"])


def test_statistics_of_widely_spread_float16_features_are_finite(encoder):
    env = VecNormalizeFeatures(VecEncodeDepth(vec_env(box=True), encoder), norm_reward=False)
    features = (np.random.default_rng(0).normal(size=(32, encoder.feature_dim)) * 300).astype(np.float16)
    env.obs_rms.update(features)
    np.testing.assert_allclose(np.sqrt(env.obs_rms.var), features.astype(np.float64).std(0), rtol=1e-2)
    theirs = RunningMeanStd(shape=(encoder.feature_dim,))
    with np.errstate(over="ignore"):
        theirs.update(features)
    assert np.isinf(theirs.var).all(), "SB3's own statistics are right by now: VecNormalizeFeatures is not needed"


def test_projection_takes_vectors_of_features_and_flattens_the_rest(encoder):
    env = VecEncodeDepth(vec_env(cameras=("left", "right"), discrete_key=True), encoder)
    assert FeatureProjection(env.observation_space, latent_dim=8).features_dim == 2 * 8 + 3 + 4
    assert FeatureProjection(env.observation_space, 8, ["left"]).features_dim == 8 + encoder.feature_dim + 3 + 4
    with pytest.raises(ValueError, match="float16 vectors"):
        FeatureProjection(vec_env().observation_space)


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_normalized_channels_take_the_place_of_depth(dtype):
    settings = {"episode_steps": 1, "millimetres": True}
    raw, env = vec_env(**settings), VecNormalizeDepth(vec_env(**settings), unit="mm", size=(16, 24), dtype=dtype)
    before, after = raw.reset(), env.reset()
    assert env.observation_space["depth"].shape == (3, 16, 24)
    assert env.observation_space.contains({key: value[0] for key, value in after.items()})

    def expect(channels, depth):
        expected = normalize_depth(depth.astype(np.float32), (16, 24), unit="mm").numpy()
        np.testing.assert_allclose(channels, expected, atol=1e-5 if dtype == np.float32 else 3e-3)

    expect(after["depth"], before["depth"])
    expected, got = raw.step(zeros(raw))[3], env.step(zeros(env))[3]
    expect(got[1]["terminal_observation"]["depth"][None], expected[1]["terminal_observation"]["depth"])


@pytest.mark.parametrize("box", [False, True])
def test_sb3s_own_cnn_trains_on_normalized_channels(box):
    env = VecNormalizeDepth(vec_env(box=box), size=(36, 36))
    policy = "CnnPolicy" if box else "MultiInputPolicy"
    model = PPO(policy, env, policy_kwargs={"normalize_images": False}, **SMALL_PPO)
    convolutions = [m for m in model.policy.features_extractor.modules() if isinstance(m, torch.nn.Conv2d)]
    assert convolutions[0].in_channels == 3
    before = convolutions[0].weight.clone()
    model.learn(16)
    assert not torch.equal(before, convolutions[0].weight)


def test_other_dtypes_are_refused_for_normalized_channels():
    with pytest.raises(ValueError, match="float16 or float32"):
        VecNormalizeDepth(vec_env(), dtype=np.uint8)


def test_float_depth_is_no_image_to_sb3():
    assert not is_image_space(vec_env(box=True).observation_space)
