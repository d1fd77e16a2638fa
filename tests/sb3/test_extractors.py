"""The encoder inside the policy: every way in which SB3 treats a features extractor."""

import io
import warnings
import zipfile

import cloudpickle
import numpy as np
import pytest
import torch
from fake_envs import ENCODER, PPO_SETTINGS, REPLAY_SETTINGS, vec_env
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import VecFrameStack

from defm_rl import DepthEncoder
from defm_rl.depth import ScaleWarning
from defm_rl.encoders.identity import EncoderIdentity
from defm_rl.encoders.weights import WeightsNotFoundError
from defm_rl.fusion import DepthFusion
from defm_rl.sb3 import DefmExtractor, EncoderAdam, FeatureProjection

ALGORITHMS = [
    (PPO, PPO_SETTINGS),
    (A2C, {"n_steps": 4, "device": "cpu"}),
    (SAC, REPLAY_SETTINGS),
    (TD3, REPLAY_SETTINGS),
    (DQN, REPLAY_SETTINGS),
    (RecurrentPPO, PPO_SETTINGS),
]
LAST_STAGE = "block4"

pytestmark = pytest.mark.usefixtures("untraced")


@pytest.fixture(scope="module")
def reference():
    return DepthEncoder(**ENCODER)


def policy_kwargs(trainable="none", lstm=False, **kwargs):
    extractor_kwargs = {**ENCODER, "trainable": trainable, **kwargs}
    more = {"lstm_hidden_size": 8} if lstm else {}
    return {
        "features_extractor_class": DefmExtractor,
        "features_extractor_kwargs": extractor_kwargs,
        "net_arch": [8],
        "optimizer_class": EncoderAdam,
        "optimizer_kwargs": {"encoder_lr_scale": 0.5},
        **more,
    }


def make(algorithm, settings, env=None, **kwargs):
    policy = "MultiInputLstmPolicy" if algorithm is RecurrentPPO else "MultiInputPolicy"
    env = env or vec_env(discrete=algorithm is DQN, episode_steps=3)
    return algorithm(policy, env, policy_kwargs=policy_kwargs(lstm=algorithm is RecurrentPPO, **kwargs), **settings)


def encoders(model):
    return [module for module in model.policy.modules() if isinstance(module, DepthEncoder)]


def observations(**kwargs):
    return vec_env(**kwargs).reset()


def tensors(observation):
    return {key: torch.as_tensor(value).float() for key, value in observation.items()}


def weights(encoder):
    return {**dict(encoder.net.named_parameters()), **dict(encoder.net.named_buffers())}


def assert_same_weights(encoder, reference):
    theirs = weights(reference)
    for name, value in weights(encoder).items():
        assert torch.equal(value, theirs[name]), name


def test_features_of_depth_stand_beside_the_other_keys(reference):
    env = vec_env(cameras=("left", "right"), discrete_key=True)
    extractor = DefmExtractor(env.observation_space, **ENCODER)
    observation = tensors(env.reset())
    observation["gait"] = torch.nn.functional.one_hot(observation["gait"].long(), 4).float()
    features = extractor(observation)
    assert features.shape == (2, extractor.features_dim)
    expected = [reference.encode(observation["left"]), reference.encode(observation["right"])]
    assert torch.equal(
        features[:, 2 * reference.feature_dim :], torch.cat([observation["gait"], observation["state"]], 1)
    )
    torch.testing.assert_close(features[:, : 2 * reference.feature_dim], torch.cat(expected, 1))


def test_projected_features_have_one_scale_whatever_the_scale_of_the_encoder_is():
    env = vec_env(cameras=("left", "right"))
    torch.manual_seed(0)
    extractor = DefmExtractor(env.observation_space, latent_dim=16, **ENCODER)
    observation = tensors(env.reset())
    features = extractor(observation)
    assert features.shape == (2, extractor.features_dim)
    assert torch.equal(features[:, 32:], observation["state"])
    encode = extractor.encoder.forward
    extractor.encoder.forward = lambda depth: 1000 * encode(depth)
    torch.testing.assert_close(extractor(observation), features, rtol=1e-3, atol=1e-3)
    assert features[:, :32].abs().mean() < 0.9  # not saturated


def test_policy_with_projected_features_trains_the_projection_and_the_encoder(tmp_path):
    model = make(PPO, PPO_SETTINGS, trainable=LAST_STAGE, latent_dim=8)
    before = {name: p.detach().clone() for name, p in model.policy.named_parameters() if "projections" in name}
    assert before
    model.learn(16)
    assert all(not torch.equal(p, before[name]) for name, p in model.policy.named_parameters() if name in before)
    model.save(tmp_path / "model")
    PPO.load(tmp_path / "model", env=model.get_env()).learn(16)


def test_box_of_stacked_frames_is_encoded_frame_by_frame(reference):
    env = VecFrameStack(vec_env(box=True), 3, channels_order="first")
    extractor = DefmExtractor(env.observation_space, **ENCODER)
    depth = torch.rand(2, 3, 32, 32) * 5
    expected = torch.cat([reference.encode(depth[:, index]) for index in range(3)], 1)
    torch.testing.assert_close(extractor(depth), expected)
    model = PPO("MlpPolicy", env, policy_kwargs=policy_kwargs(), **PPO_SETTINGS)
    model.learn(16)


def test_image_dependent_pools_learn_the_image_size_from_the_space():
    extractor = DefmExtractor(vec_env().observation_space, **ENCODER, features="P4", pool="columns")
    assert extractor(tensors(observations())).shape == (2, extractor.features_dim)


def test_orthogonal_initialisation_leaves_the_encoder_alone(reference):
    for trainable in ("none", "all"):
        model = make(PPO, PPO_SETTINGS, trainable=trainable)
        assert_same_weights(encoders(model)[0], reference)


def test_frozen_encoder_stays_in_evaluation_mode_and_trained_stages_follow():
    model = make(PPO, PPO_SETTINGS, trainable=[LAST_STAGE])
    net = encoders(model)[0].net
    model.policy.set_training_mode(True)
    modes = {name: module.training for name, module in net.named_modules()}
    assert {training for name, training in modes.items() if f".{LAST_STAGE}" in f".{name}."} == {True}
    assert not any(training for name, training in modes.items() if LAST_STAGE not in name)
    model.policy.set_training_mode(False)
    assert not any(module.training for module in net.modules())


@pytest.mark.parametrize("trainable", ["none", "all"])
def test_rollout_and_update_see_the_same_features(trainable):
    """Stochastic depth in an update, and not in the rollout, would corrupt PPO's probability ratio."""
    settings = {**PPO_SETTINGS, "n_epochs": 2, "learning_rate": 0.0}
    model = make(PPO, settings, trainable=trainable, encoder="defm_efficientnet_b0").learn(8)
    assert dict(model.logger.name_to_value)["train/approx_kl"] == 0.0


def test_optimizer_gets_trained_parameters_only_and_the_encoder_in_a_group_of_its_own():
    frozen, partly = make(PPO, PPO_SETTINGS), make(PPO, PPO_SETTINGS, trainable=[LAST_STAGE])
    assert frozen.policy.optimizer.param_groups[1]["params"] == []
    others, encoder = (group["params"] for group in partly.policy.optimizer.param_groups)
    assert {id(p) for p in encoder} == {id(p) for p in encoders(partly)[0].net.parameters()}
    assert len(others) == len(frozen.policy.optimizer.param_groups[0]["params"])


def assert_goes_on_after_saving(model, path, env):
    """Saves, loads, compares actions, learns on. Returns the loaded model."""
    model.save(path)
    loaded = type(model).load(path, env=env, device="cpu")
    observation = observations()
    expected = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    loaded.learn(8, reset_num_timesteps=False)
    assert loaded.num_timesteps > model.num_timesteps
    return loaded


@pytest.mark.parametrize(("algorithm", "settings"), ALGORITHMS)
@pytest.mark.sweep(3)
def test_policy_with_a_frozen_encoder_trains_saves_and_goes_on(algorithm, settings, tmp_path, reference):
    model = make(algorithm, settings).learn(8)
    loaded = assert_goes_on_after_saving(model, tmp_path / "model", model.get_env())
    for encoder in (*encoders(model), *encoders(loaded)):
        assert_same_weights(encoder, reference)


@pytest.mark.parametrize(("algorithm", "settings"), [(PPO, PPO_SETTINGS), (SAC, REPLAY_SETTINGS)])
@pytest.mark.sweep(2)
def test_policy_with_a_trained_stage_trains_saves_and_goes_on(algorithm, settings, tmp_path, reference):
    model = make(algorithm, settings, trainable=[LAST_STAGE]).learn(8)
    trained = {name for name, _ in encoders(model)[0].net.named_parameters()}
    for earlier, later in [
        (reference, model),
        (model, assert_goes_on_after_saving(model, tmp_path / "m", model.get_env())),
    ]:
        before = weights(earlier if earlier is reference else encoders(earlier)[0])
        changed = {name for name, x in weights(encoders(later)[0]).items() if not torch.equal(x, before[name])}
        assert changed
        assert changed <= trained


def test_checkpoint_is_small_and_holds_no_frozen_weights(tmp_path):
    model = make(PPO, PPO_SETTINGS, encoder="defm_resnet18")
    model.save(tmp_path / "model.zip")
    assert (tmp_path / "model.zip").stat().st_size < 1_000_000
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        state = torch.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    assert not any(".net." in name for name in state)
    sha256 = encoders(model)[0].provenance.sha256
    assert EncoderIdentity.read(state["features_extractor.encoder._extra_state"]).sha256 == sha256


@pytest.mark.parametrize(("algorithm", "settings"), [(PPO, PPO_SETTINGS), (SAC, REPLAY_SETTINGS)])
def test_checkpoint_refuses_other_frozen_weights(algorithm, settings, tmp_path):
    model = make(algorithm, settings)
    model.save(tmp_path / "model")
    model.policy_kwargs["features_extractor_kwargs"]["seed"] = 1  # stands for another file behind the same name
    model.save(tmp_path / "other_weights")
    with pytest.raises(RuntimeError, match="sha256"):
        algorithm.load(tmp_path / "other_weights", device="cpu")


def test_a_policy_whose_weights_file_has_moved_says_how_to_load_it(tmp_path):
    there, now = tmp_path / "there.safetensors", tmp_path / "now.safetensors"
    DepthEncoder(**ENCODER).save(there)
    model = make(PPO, PPO_SETTINGS, weights=str(there))
    model.save(tmp_path / "model")
    there.rename(now)
    with pytest.raises(WeightsNotFoundError, match="custom_objects") as caught:
        PPO.load(tmp_path / "model", device="cpu")
    *lines, load = str(caught.value).partition("has saved: ")[2].split("; ")
    names = {"path": tmp_path / "model", "place": str(now), "PPO": PPO}
    exec("\n".join(lines), names)
    loaded = eval(load, names)
    assert encoders(loaded)[0].provenance.path == now
    observation = observations()
    np.testing.assert_allclose(
        loaded.predict(observation, deterministic=True)[0], model.predict(observation, deterministic=True)[0], atol=1e-5
    )


@pytest.mark.slow
def test_a_policys_fine_tuned_encoder_is_the_next_ones(tmp_path):
    model = make(PPO, PPO_SETTINGS, trainable=[LAST_STAGE, "head"])
    model.learn(16)
    model.save(tmp_path / "model.zip")
    encoder = PPO.load(tmp_path / "model.zip", device="cpu").policy.features_extractor.encoder
    encoder.save(tmp_path / "mine.safetensors")
    expected = encoder(observations()["depth"]).detach()
    for weights_file in ("mine.safetensors", "model.zip"):
        following = DepthEncoder(**{**ENCODER, "weights": str(tmp_path / weights_file)})
        torch.testing.assert_close(following(observations()["depth"]), expected, rtol=1e-4, atol=1e-4)


def test_a_checkpoint_that_holds_the_identity_as_a_dict_loads_and_is_verified(tmp_path):
    model = make(PPO, PPO_SETTINGS)
    for sha256 in (encoders(model)[0].provenance.sha256, "0" * 64):
        state = model.policy.state_dict()
        former = {"encoder": encoders(model)[0].encoder_name, "sha256": sha256, "trainable": []}
        state = {name: former if name.endswith("_extra_state") else value for name, value in state.items()}
        parameters = {**model.get_parameters(), "policy": state}
        if sha256 == "0" * 64:
            with pytest.raises(RuntimeError, match="sha256"):
                model.set_parameters(parameters)
        else:
            model.set_parameters(parameters)


def test_policy_kwargs_are_names_and_numbers():
    model = make(PPO, PPO_SETTINGS)
    assert len(cloudpickle.dumps(model.policy_kwargs)) < 2000
    with pytest.raises(TypeError, match="name"):
        DefmExtractor(vec_env().observation_space, encoder=encoders(model)[0])


@pytest.mark.parametrize(("share", "copies"), [(False, 3), (True, 2)])
def test_sac_holds_copies_of_the_encoder_that_follow_each_other(share, copies):
    kwargs = policy_kwargs(trainable=LAST_STAGE)
    model = SAC(
        "MultiInputPolicy", vec_env(), policy_kwargs={**kwargs, "share_features_extractor": share}, **REPLAY_SETTINGS
    )
    assert len(encoders(model)) == copies
    before = {name: x.clone() for name, x in model.critic_target.features_extractor.encoder.net.named_parameters()}
    model.learn(8)
    online, target = model.critic.features_extractor.encoder, model.critic_target.features_extractor.encoder
    assert not any(module.training for module in target.modules())
    for name, slow in target.net.named_parameters():
        expected = torch.lerp(before[name], dict(online.net.named_parameters())[name], model.tau)
        torch.testing.assert_close(slow, expected)


def test_replay_buffer_keeps_millimetres_as_uint16():
    env = vec_env(millimetres=True)
    model = make(SAC, REPLAY_SETTINGS, env=env, unit="mm").learn(12)
    assert model.replay_buffer.observations["depth"].dtype == np.uint16
    metres, millimetres = tensors(observations()), tensors(observations(millimetres=True))
    extractor = DefmExtractor(vec_env().observation_space, **ENCODER)
    torch.testing.assert_close(model.actor.features_extractor(millimetres), extractor(metres), atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("dtype", [np.float16, np.uint16])
def test_rollout_buffer_keeps_compact_depth(dtype):
    env = vec_env(box=True, millimetres=dtype == np.uint16)
    if dtype == np.float16:
        env.observation_space = spaces.Box(0, 100, (1, 32, 32), np.float16)
    kwargs = policy_kwargs(unit="mm" if dtype == np.uint16 else "m")
    model = PPO("MlpPolicy", env, policy_kwargs=kwargs, **PPO_SETTINGS).learn(16)
    assert model.rollout_buffer.observations.dtype == dtype


def test_depth_reaches_the_encoder_as_it_is(monkeypatch):
    seen = []
    model = make(PPO, PPO_SETTINGS)
    encoder = encoders(model)[0]
    encode = encoder.forward
    monkeypatch.setattr(encoder, "forward", lambda depth: seen.append(depth) or encode(depth))
    observation = observations()
    model.predict(observation)
    np.testing.assert_array_equal(seen[0].numpy(), observation["depth"][:, 0])


@pytest.mark.parametrize(
    "image",
    [
        spaces.Box(0, 255, (3, 32, 32), np.uint8),
        spaces.Box(0, 1, (32, 32, 3)),
        spaces.Box(0, 65535, (32, 32), np.uint16),
        spaces.Box(0, 100, (4, 32, 32)),
    ],
)
def test_an_image_that_would_be_flattened_is_refused(image):
    depth, features = spaces.Box(0, 100, (1, 32, 32)), spaces.Box(-5, 5, (8,), np.float16)
    for make in (
        lambda: DefmExtractor(spaces.Dict(depth=depth, other=image), depth_keys=["depth"], **ENCODER),
        lambda: DepthFusion(spaces.Dict(depth=depth, other=image), ENCODER, ["depth"]),
        lambda: FeatureProjection(spaces.Dict(depth=features, other=image)),
    ):
        with pytest.raises(ValueError, match="'other' is an image"):
            make()


def test_padding_of_recurrent_sequences_is_encoded_once(monkeypatch):
    extractor = DefmExtractor(vec_env(box=True).observation_space, **ENCODER).train()
    depth = torch.rand(6, 1, 32, 32) * 5
    depth[[1, 4, 5]] = 0.0
    encoded = []
    encode = extractor.encoder.forward
    monkeypatch.setattr(extractor.encoder, "forward", lambda images: encoded.append(len(images)) or encode(images))
    features = extractor(depth)
    assert encoded == [4]
    torch.testing.assert_close(features, encode(depth))


def test_recurrent_ppo_does_not_encode_the_padding_of_its_sequences(monkeypatch):
    settings = {**PPO_SETTINGS, "n_steps": 16, "batch_size": 16, "n_epochs": 2}
    model = make(RecurrentPPO, settings, env=vec_env(episode_steps=5))
    extractor = model.policy.features_extractor
    given, encoded = [], []
    encode, encode_batch = extractor.encoder.forward, extractor._encode

    def watched(depth):
        encoded.clear()
        features = encode_batch(depth)
        if extractor.training:
            given.append((len(depth), sum(encoded)))
        return features

    monkeypatch.setattr(extractor, "_encode", watched)
    monkeypatch.setattr(extractor.encoder, "forward", lambda images: encoded.append(len(images)) or encode(images))
    model.learn(32)
    assert len(given) == 4
    assert sum(images for images, _ in given) > 4 * 16, "no sequence was padded"
    assert all(count <= 16 + 1 for _, count in given)


def test_replay_memory_of_depth_can_keep_each_frame_only_once():
    kept_once = {"optimize_memory_usage": True, "replay_buffer_kwargs": {"handle_timeout_termination": False}}
    env = vec_env(box=True, episode_steps=3)
    model = SAC("MlpPolicy", env, policy_kwargs=policy_kwargs(), **REPLAY_SETTINGS, **kept_once).learn(12)
    assert not hasattr(model.replay_buffer, "next_observations")


def test_gradients_reach_trained_stages_through_padding():
    extractor = DefmExtractor(vec_env(box=True).observation_space, **ENCODER, trainable=LAST_STAGE).train()
    depth = torch.rand(4, 1, 32, 32) * 5
    depth[2:] = 0.0
    direction = torch.randn(extractor.features_dim)  # the features' norm is fixed by the last layer and has no gradient
    gradients = []
    for features in (extractor(depth), extractor.encoder(depth)):
        extractor.zero_grad()
        (features * direction).sum().backward()
        gradients.append([p.grad.clone() for p in extractor.parameters()])
    for ours, plain in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-3, atol=1e-4 * plain.abs().max().item())


def test_depth_that_looks_normalised_gets_one_warning():
    extractor = DefmExtractor(vec_env(box=True).observation_space, **ENCODER)
    with pytest.warns(ScaleWarning):
        extractor(torch.rand(300, 1, 32, 32))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extractor(torch.rand(300, 1, 32, 32))


@pytest.mark.parametrize("mode", [False, True])
def test_a_frame_without_a_valid_pixel_is_one_of_holes(mode):
    extractor = DefmExtractor(vec_env(box=True).observation_space, **ENCODER).train(mode)
    depth = torch.rand(3, 1, 32, 32) * 5
    depth[0], depth[1] = -1.0, 0.0
    features = extractor(depth[:1]), extractor(depth)
    torch.testing.assert_close(features[0], features[1][1:2])
