"""Fine-tuning that starts in the middle of training."""

import numpy as np
import pytest
import torch
from fake_envs import ENCODER, PPO_SETTINGS, REPLAY_SETTINGS, vec_env
from sb3_contrib import QRDQN, TQC, RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC, TD3

from defm_rl import DepthEncoder
from defm_rl.sb3 import DefmExtractor, EncoderAdam, UnfreezeEncoder, VecEncodeDepth
from defm_rl.sb3.unfreeze import unfreeze_encoder

LAST_STAGE = "block4"

pytestmark = pytest.mark.usefixtures("untraced")
DISCRETE = (DQN, QRDQN)


def make(algorithm, settings, trainable="none", env=None, **kwargs):
    policy_kwargs = {
        "features_extractor_class": DefmExtractor,
        "features_extractor_kwargs": {**ENCODER, "trainable": trainable},
        "net_arch": [8],
        "optimizer_class": EncoderAdam,
        "optimizer_kwargs": {"encoder_lr_scale": 0.5},
        **kwargs,
    }
    policy = "MultiInputPolicy"
    if algorithm is RecurrentPPO:
        policy, policy_kwargs["lstm_hidden_size"] = "MultiInputLstmPolicy", 8
    env = env or vec_env(discrete=algorithm in DISCRETE, episode_steps=3)
    return algorithm(policy, env, policy_kwargs=policy_kwargs, **settings)


def encoders(model):
    return [module for module in model.policy.modules() if isinstance(module, DepthEncoder)]


def optimizers(model):
    owners = [model.policy] if hasattr(model.policy, "optimizer") else [model.policy.actor, model.policy.critic]
    return [owner.optimizer for owner in owners]


def shapes(optimizer):
    return [[tuple(p.shape) for p in group["params"]] for group in optimizer.param_groups]


@pytest.mark.parametrize(
    ("algorithm", "settings", "kwargs"),
    [
        (PPO, PPO_SETTINGS, {}),
        (PPO, PPO_SETTINGS, {"share_features_extractor": False}),
        (RecurrentPPO, PPO_SETTINGS, {}),
        (SAC, REPLAY_SETTINGS, {}),
        (SAC, REPLAY_SETTINGS, {"share_features_extractor": True}),
        (TQC, REPLAY_SETTINGS, {"share_features_extractor": True}),
        (TD3, REPLAY_SETTINGS, {}),
        (TD3, REPLAY_SETTINGS, {"share_features_extractor": True}),
        (DQN, REPLAY_SETTINGS, {}),
        (QRDQN, REPLAY_SETTINGS, {}),
    ],
)
@pytest.mark.sweep(3)
def test_unfrozen_model_is_built_like_a_fresh_one(algorithm, settings, kwargs):
    unfrozen, fresh = make(algorithm, settings, **kwargs), make(algorithm, settings, trainable=LAST_STAGE, **kwargs)
    unfreeze_encoder(unfrozen, LAST_STAGE)
    names = [(name, tuple(p.shape)) for name, p in unfrozen.policy.named_parameters()]
    assert names == [(name, tuple(p.shape)) for name, p in fresh.policy.named_parameters()]
    assert [shapes(x) for x in optimizers(unfrozen)] == [shapes(x) for x in optimizers(fresh)]
    assert unfrozen.policy.state_dict().keys() == fresh.policy.state_dict().keys()


@pytest.mark.parametrize(("algorithm", "settings"), [(PPO, PPO_SETTINGS), (SAC, REPLAY_SETTINGS)])
@pytest.mark.sweep(3)
def test_encoder_learns_after_the_given_steps_and_survives_saving(algorithm, settings, tmp_path):
    model, reference = make(algorithm, settings), DepthEncoder(**ENCODER)
    callback = UnfreezeEncoder(after_timesteps=10, trainable=LAST_STAGE)
    model.learn(8, callback=callback)
    assert all(encoder.frozen for encoder in encoders(model))
    moments = [{p: s["exp_avg"].clone() for p, s in x.state.items()} for x in optimizers(model)]
    assert all(moments)
    given = model.policy_kwargs["features_extractor_kwargs"]

    model.learn(8, callback=callback, reset_num_timesteps=False)
    assert given["trainable"] == "none", "the user's own dict must not change"
    for optimizer, before in zip(optimizers(model), moments, strict=True):
        for parameter in before:
            assert optimizer.state[parameter]["step"] > 1
    online = encoders(model)[0]
    before = dict(reference.net.named_buffers())
    assert any(not torch.equal(value, before[name]) for name, value in online.net.named_parameters())

    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model", env=vec_env(episode_steps=3), device="cpu")
    observation = vec_env().reset()
    expected = model.predict(observation, deterministic=True)[0]
    np.testing.assert_array_equal(loaded.predict(observation, deterministic=True)[0], expected)
    optimizer = optimizers(loaded)[0]
    loaded.learn(8, callback=UnfreezeEncoder(0, LAST_STAGE), reset_num_timesteps=False)
    assert optimizers(loaded)[0] is optimizer, "nothing was left to unfreeze"


def test_moments_are_kept_in_the_rebuilt_optimizer():
    model = make(PPO, PPO_SETTINGS).learn(8)
    before = {p: s["exp_avg"].clone() for p, s in model.policy.optimizer.state.items()}
    unfreeze_encoder(model, LAST_STAGE)
    assert isinstance(model.policy.optimizer, EncoderAdam)
    for parameter, moment in before.items():
        assert torch.equal(model.policy.optimizer.state[parameter]["exp_avg"], moment)


def test_unfreezing_itself_changes_no_action():
    model = make(SAC, REPLAY_SETTINGS)
    observation = vec_env().reset()
    before = model.predict(observation, deterministic=True)[0]
    unfreeze_encoder(model, "all")
    np.testing.assert_allclose(model.predict(observation, deterministic=True)[0], before, atol=1e-5)


def test_more_stages_can_follow():
    model = make(PPO, PPO_SETTINGS)
    unfreeze_encoder(model, LAST_STAGE)
    first = len(model.policy.optimizer.param_groups[1]["params"])
    unfreeze_encoder(model, "all")
    assert len(model.policy.optimizer.param_groups[1]["params"]) > first
    fresh = make(PPO, PPO_SETTINGS, trainable="all")
    assert shapes(model.policy.optimizer) == shapes(fresh.policy.optimizer)


def test_encoder_in_the_environment_is_a_loud_error():
    env = VecEncodeDepth(vec_env(), **ENCODER)
    model = PPO("MultiInputPolicy", env, **PPO_SETTINGS)
    with pytest.raises(ValueError, match="VecEncodeDepth"):
        model.learn(8, callback=UnfreezeEncoder(0))


def test_policy_without_encoder_is_a_loud_error():
    model = PPO("MultiInputPolicy", vec_env(), **PPO_SETTINGS)
    with pytest.raises(ValueError, match="DefmExtractor"):
        model.learn(8, callback=UnfreezeEncoder(0))
