"""Depth encoded once, or normalized, inside SB3's vectorized environments."""

import warnings

import numpy as np
import pytest
import torch
from fake_envs import ENCODER, DepthEnv, vec_env
from gymnasium import spaces
from gymnasium.wrappers import FrameStackObservation
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecCheckNan,
    VecEnvWrapper,
    VecExtractDictObs,
    VecFrameStack,
    VecMonitor,
    VecNormalize,
    VecTransposeImage,
)

from defm_rl import DepthEncoder, normalize_depth
from defm_rl.depth import ScaleWarning
from defm_rl.observations import describe_encoder
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


@pytest.mark.parametrize("box", [False, True])
@pytest.mark.parametrize(
    ("shape", "wrong", "right", "remedy"),
    [
        ((1, 32, 32), None, "first", "Stack by channels_order='first'"),
        ((32, 32, 1), "first", None, "Stack by channels_order='last'"),
        ((32, 32), "first", None, "an axis for frames"),
        ((32, 32), "last", None, "an axis for frames"),
    ],
)
def test_stacks_that_join_images_at_their_edges_are_refused(encoder, shape, box, wrong, right, remedy):
    def make(order):
        stacked = VecMonitor(VecFrameStack(vec_env(box=box, shape=shape), 3, channels_order=order))
        return VecEncodeDepth(stacked, encoder, depth_keys=["depth"])

    with pytest.raises(ValueError, match=remedy):
        make(wrong)
    if len(shape) == 3:
        features = make(right).reset()
        assert (features if box else features["depth"]).shape == (2, 3 * encoder.feature_dim)


def test_a_stack_of_which_one_camera_is_taken_is_looked_at_too(encoder):
    def make(**kwargs):
        return VecEncodeDepth(VecExtractDictObs(VecFrameStack(vec_env(), 3, **kwargs), "depth"), encoder)

    with pytest.raises(ValueError, match="VecFrameStack joins"):
        make()
    assert make(channels_order="first").observation_space.shape == (3 * encoder.feature_dim,)


@pytest.mark.parametrize("shape", [(1, 32, 40), (32, 40), (32, 40, 1)])
def test_frames_that_gymnasium_has_stacked_are_encoded_one_by_one(encoder, shape):
    def stacked():
        return FrameStackObservation(DepthEnv(box=True, shape=shape), 3)

    env = VecEncodeDepth(DummyVecEnv([stacked]), encoder)
    raw = DummyVecEnv([stacked])
    raw.seed(0), env.seed(0)
    raw.reset(), env.reset()
    frames, features = raw.step(zeros(raw))[0], env.step(zeros(env))[0]
    assert features.shape == (1, 3 * encoder.feature_dim)
    close(features[0].reshape(3, -1), encoder.encode(frames.reshape(3, 32, 40)))


def test_features_beyond_float16_are_clipped(encoder, monkeypatch):
    env = VecEncodeDepth(vec_env(box=True), encoder)
    monkeypatch.setattr(encoder, "encode", lambda depth: torch.full((len(depth), encoder.feature_dim), 1e6))
    assert np.isfinite(env.reset()).all()


def test_depth_that_looks_normalised_gets_one_warning(encoder):
    class Scaled(VecEnvWrapper):
        def reset(self):
            return self.venv.reset() / 5.0

        def step_wait(self):
            observations, *rest = self.venv.step_wait()
            return observations / 5.0, *rest

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


def test_a_frame_is_encoded_once_however_many_epochs_there_are(monkeypatch):
    env = VecEncodeDepth(vec_env(episode_steps=5), **ENCODER)
    encoded = []
    encode = env.encoder.encode
    monkeypatch.setattr(env.encoder, "encode", lambda images: encoded.append(len(images)) or encode(images))
    PPO("MultiInputPolicy", env, **{**SMALL_PPO, "n_epochs": 10}).learn(2 * 8 * 2)
    steps, ended = 2 * 8, 3  # of each of two environments: both end after 5, 10 and 15 steps
    assert sum(encoded) == 2 * (1 + steps + ended)
    assert len(encoded) == 1 + steps


@pytest.mark.parametrize("box", [False, True])
def test_raw_depth_that_vec_normalize_standardises_is_refused(box):
    with pytest.raises(ValueError, match="norm_obs_keys"):
        VecEncodeDepth(VecNormalize(vec_env(box=box)), **ENCODER)
    with pytest.raises(ValueError, match="VecNormalize standardises depth"):
        VecNormalizeDepth(
            VecFrameStack(VecNormalize(vec_env(box=box)), 2, channels_order="first"), depth_keys=["depth"]
        )
    VecNormalizeDepth(VecNormalize(vec_env(box=box), norm_obs=False))  # rewards only


def test_other_keys_may_be_standardised(encoder):
    env = VecEncodeDepth(VecNormalize(vec_env(), norm_obs_keys=["state"]), encoder)
    close(env.reset()["depth"], encoder.encode(vec_env().reset()["depth"]))


def test_a_replay_buffer_of_features_can_keep_each_only_once(encoder):
    """SB3 offers it for Box observations only."""
    env = VecEncodeDepth(vec_env(box=True, episode_steps=3), encoder)
    kept_once = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    model = SAC("MlpPolicy", env, policy_kwargs={"net_arch": [8]}, **SMALL_REPLAY, **kept_once)
    assert not hasattr(model.replay_buffer, "next_observations")
    observations = env.reset()
    model.learn(16)
    assert model.replay_buffer.observations.dtype == np.float16
    np.testing.assert_array_equal(model.replay_buffer.observations.shape[2:], observations.shape[1:])


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


def standardised(env):
    return VecNormalizeFeatures(env, norm_obs_keys=["depth"], norm_reward=False)


class WithPicture(VecEnvWrapper):
    """Says that there is a picture too, for VecTransposeImage."""

    def __init__(self, venv):
        picture = spaces.Box(0, 255, (36, 36, 3), np.uint8)
        super().__init__(venv, spaces.Dict({**venv.observation_space.spaces, "picture": picture}))

    def reset(self):
        return self.venv.reset()

    def step_wait(self):
        return self.venv.step_wait()


BEHIND = {
    "nothing": lambda env: env,
    "a stack": lambda env: VecFrameStack(env, 3),
    "a camera of a stack": lambda env: VecExtractDictObs(VecFrameStack(env, 3), "depth"),
    "VecNormalize": lambda env: VecNormalize(env, norm_obs_keys=["depth"]),
    "VecNormalizeFeatures": standardised,
    "a stack of standardised features": lambda env: VecFrameStack(standardised(env), 3),
    "a standardised stack": lambda env: standardised(VecFrameStack(env, 3)),
    "all else": lambda env: VecMonitor(VecCheckNan(VecTransposeImage(WithPicture(env)))),
}


@pytest.fixture(scope="module")
def other_encoder():
    return DepthEncoder(**ENCODER, seed=1)


@pytest.mark.parametrize("behind", BEHIND)
def test_a_policy_refuses_other_features_whatever_stands_between(behind, encoder, other_encoder, tmp_path):
    def make_env(encoder):
        return BEHIND[behind](VecEncodeDepth(vec_env(), encoder))

    env = make_env(encoder)
    policy = "MlpPolicy" if isinstance(env.observation_space, spaces.Box) else "MultiInputPolicy"
    model = PPO(policy, env, policy_kwargs={"net_arch": [8]}, **SMALL_PPO)
    model.save(tmp_path / "model")
    PPO.load(tmp_path / "model", env=make_env(encoder), device="cpu")
    for accept in (lambda env: PPO.load(tmp_path / "model", env=env, device="cpu"), model.set_env):
        with pytest.raises(ValueError, match="do not match") as error:
            accept(make_env(other_encoder))
        for one in (encoder, other_encoder):
            assert one.provenance.sha256 in str(error.value)


@pytest.mark.parametrize("stack", [1, 2])
def test_statistics_of_another_encoder_are_refused(encoder, other_encoder, stack, tmp_path):
    def make_env(encoder):
        return VecFrameStack(VecEncodeDepth(vec_env(), encoder), stack)

    env = standardised(make_env(encoder))
    env.reset()
    env.save(tmp_path / "statistics.pkl")
    loaded = VecNormalizeFeatures.load(tmp_path / "statistics.pkl", make_env(encoder))
    assert loaded.observation_space == env.observation_space
    for other in (other_encoder, DepthEncoder(**ENCODER, features="P4")):
        with pytest.raises(ValueError, match="statistics are of") as error:
            VecNormalizeFeatures.load(tmp_path / "statistics.pkl", make_env(other))
        assert encoder.provenance.sha256 in str(error.value)
        assert describe_encoder(other) in str(error.value)


def test_a_policy_on_standardised_features_is_refused_without_statistics(encoder, tmp_path):
    def make_env():
        return VecEncodeDepth(vec_env(), encoder)

    env = standardised(make_env())
    model = PPO("MultiInputPolicy", env, **SMALL_PPO).learn(16)
    model.save(tmp_path / "model")
    env.save(tmp_path / "statistics.pkl")
    with pytest.raises(ValueError, match=r"standardized.*as encoded"):
        PPO.load(tmp_path / "model", env=make_env(), device="cpu")
    restored = VecNormalizeFeatures.load(tmp_path / "statistics.pkl", make_env())
    assert PPO.load(tmp_path / "model", env=restored, device="cpu").learn(16, reset_num_timesteps=False)
    PPO("MultiInputPolicy", make_env(), **SMALL_PPO).save(tmp_path / "model")
    with pytest.raises(ValueError, match=r"as encoded.*standardized"):
        PPO.load(tmp_path / "model", env=standardised(make_env()), device="cpu")


@pytest.mark.parametrize("stack", [1, 2])
def test_statistics_and_policies_of_older_files_still_load(encoder, stack, tmp_path, caplog):
    """There, spaces did not say what is standardised, and those of stacks not even where features are from."""

    def make_env():
        return VecFrameStack(VecEncodeDepth(vec_env(), encoder), stack)

    env = standardised(make_env())
    old = make_env().observation_space
    if stack > 1:
        old.spaces["depth"] = spaces.Box(-np.inf, np.inf, old["depth"].shape, np.float16)
    env.observation_space = old
    del env._space_before
    PPO("MultiInputPolicy", env, **SMALL_PPO).save(tmp_path / "model")
    env.save(tmp_path / "statistics.pkl")
    loaded = VecNormalizeFeatures.load(tmp_path / "statistics.pkl", make_env())
    assert ("cannot be told" in caplog.text) == (stack > 1)
    PPO.load(tmp_path / "model", env=loaded, device="cpu")


def test_an_older_policy_on_a_stack_of_features_loads_where_it_is_told_their_space(encoder, tmp_path):
    env = VecFrameStack(VecEncodeDepth(vec_env(box=True), encoder), 2)
    space = env.observation_space
    env.observation_space = spaces.Box(-np.inf, np.inf, space.shape, np.float16)
    PPO("MlpPolicy", env, **SMALL_PPO).save(tmp_path / "model")
    env.observation_space = space
    with pytest.raises(ValueError, match="do not match"):
        PPO.load(tmp_path / "model", env=env, device="cpu")
    told = {"observation_space": space}
    assert PPO.load(tmp_path / "model", env=env, device="cpu", custom_objects=told).observation_space == space


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
