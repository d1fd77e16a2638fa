"""A policy that sees trains in RSL-RL, its encoder before it or inside it, and what is frozen stays as it is."""

import copy
import io

import numpy as np
import pytest
import torch
from fake_envs import IMAGE
from runs import ENCODER, ENVS, STEPS, distillation, environment, optimized, ppo, rollout
from tensordict import TensorDict
from torch import nn

from defm_rl.encoders import DepthEncoder
from defm_rl.rsl_rl import DefmModel

INSIDE = {**ENCODER, "trainable": ["head"], "features": ["global"]}
SHARED = {"share_cnn_encoders": True}
LSTM, GRU = ({"rnn_type": kind, "rnn_hidden_dim": 6} for kind in ("lstm", "gru"))


class TinyCnn(nn.Module):
    def __init__(self, image_size):
        super().__init__()
        self.feature_dim = 5
        self.layer = nn.Linear(image_size[0] * image_size[1], 5)

    def forward(self, depth):
        return self.layer(depth.flatten(1))


@pytest.mark.parametrize(
    ("encoded", "settings", "algorithm"),
    [
        (True, {}, {}),
        (True, {"obs_normalization": True, **LSTM}, {}),
        (False, {"encoder": INSIDE}, {}),
        (False, {"encoder": INSIDE, **GRU}, {**SHARED, "class_name": "defm_rl.rsl_rl:EncoderPPO"}),
        (False, {"encoder": {**ENCODER}}, SHARED),
        (False, {"encoder": {"class_name": "test_model:TinyCnn"}, **LSTM}, SHARED),
    ],
    ids=["features", "features-lstm", "inside", "inside-shared-gru", "inside-frozen", "own-class-lstm"],
)
def test_every_way_to_see_learns_and_leaves_what_is_frozen(encoded, settings, algorithm):
    runner = ppo(environment(encoded), algorithm=algorithm, **settings)
    actor, critic = runner.alg.actor, runner.alg.critic
    encoder = actor.encoder if not encoded else runner.env.env.encoder
    frozen = {name: x.clone() for name, x in encoder.named_buffers()}
    before = {name: x.clone() for name, x in [*actor.named_parameters(), *critic.named_parameters()]}
    runner.learn(2)
    assert len(optimized(runner)) == len({id(parameter) for parameter in optimized(runner)})
    assert all(torch.equal(x, frozen[name]) for name, x in encoder.named_buffers() if "num_batches" not in name)
    moved = {name for name, x in [*actor.named_parameters(), *critic.named_parameters()] if not x.equal(before[name])}
    assert {name.split(".")[0] for name in moved} >= {"mlp", "projections", "distribution"}
    assert any(name.startswith("encoding") for name in moved) == (
        not encoded and next(encoder.parameters(), None) is not None
    )
    assert any(name.startswith("rnn") for name in moved) == actor.is_recurrent


def test_a_shared_encoder_encodes_each_batch_once_and_learns_from_both():
    runner = ppo(environment(encoded=False), algorithm=SHARED, encoder=INSIDE)
    actor, critic = runner.alg.actor, runner.alg.critic
    assert critic.encoder is actor.encoder
    assert not any(name.startswith("encoding") for name in critic.state_dict())
    images = []
    actor.encoder.register_forward_hook(lambda module, depth, out: images.append(len(depth[0])))
    obs = runner.env.get_observations()
    with torch.no_grad():
        alone = critic(obs)
        actor(obs)
        together = critic(obs)
    assert images == [ENVS, ENVS]
    assert torch.equal(alone, together)
    images.clear()
    rollout(runner)
    runner.alg.update()
    assert sum(images) == ENVS * STEPS + ENVS + 2 * (ENVS * STEPS)  # acting, the last value, two epochs

    actor.zero_grad()
    critic(obs).sum().backward()
    assert all(parameter.grad is not None for parameter in actor.encoder.parameters())


def test_a_shared_encoder_gets_the_critics_gradients_though_the_actor_had_none():
    runner = ppo(environment(encoded=False), algorithm=SHARED, encoder=INSIDE)
    obs = runner.env.get_observations()
    with torch.no_grad():
        runner.alg.actor(obs)
    runner.alg.critic(obs).sum().backward()
    assert all(parameter.grad is not None for parameter in runner.alg.actor.encoder.parameters())


def test_an_encoding_is_not_taken_for_that_of_later_weights():
    runner = ppo(environment(encoded=False), algorithm=SHARED, encoder=INSIDE)
    obs = runner.env.get_observations()
    with torch.no_grad():
        runner.alg.actor(obs)
        before = runner.alg.critic(obs)
        for parameter in runner.alg.actor.encoder.parameters():
            parameter.add_(torch.randn_like(parameter))
        assert not torch.allclose(runner.alg.critic(obs), before)


def test_a_slower_encoder_survives_the_adaptive_learning_rate():
    algorithm = {**SHARED, "class_name": "defm_rl.rsl_rl:EncoderPPO", "encoder_lr_scale": 0.0}
    runner = ppo(environment(encoded=False), algorithm=algorithm, encoder=INSIDE)
    before = [parameter.clone() for parameter in runner.alg.actor.encoder.parameters()]
    runner.learn(2)
    assert all(map(torch.equal, runner.alg.actor.encoder.parameters(), before))
    assert {group["lr"] for group in runner.alg.optimizer.param_groups} == {runner.alg.learning_rate}


@pytest.mark.parametrize("kind", [LSTM, GRU], ids=["lstm", "gru"])
@pytest.mark.parametrize("encoded", [True, False], ids=["features", "inside"])
def test_padded_sequences_give_what_was_done_and_padding_is_not_encoded(encoded, kind):
    runner = ppo(environment(encoded, episode_steps=3), algorithm={} if encoded else SHARED, encoder=INSIDE, **kind)
    rollout(runner)
    images = []
    if not encoded:
        runner.alg.actor.encoder.register_forward_hook(lambda module, depth, out: images.append(len(depth[0])))
    (batch,) = runner.alg.storage.recurrent_mini_batch_generator(1, 1)
    assert not batch.masks.all()
    actor, critic = runner.alg.actor, runner.alg.critic
    with torch.no_grad():
        actor(batch.observations, masks=batch.masks, hidden_state=batch.hidden_states[0], stochastic_output=True)
        values = critic(batch.observations, masks=batch.masks, hidden_state=batch.hidden_states[1])
    assert torch.allclose(actor.output_mean, batch.old_distribution_params[0], atol=1e-5)
    assert torch.allclose(values, batch.values, atol=1e-5)
    assert images == ([] if encoded else [ENVS * STEPS])


@pytest.mark.parametrize(
    ("encoded", "settings"),
    [(True, LSTM), (False, {"encoder": INSIDE}), (False, {"encoder": dict(ENCODER)})],
    ids=["features", "inside", "inside-frozen"],
)
@pytest.mark.sweep(3)
def test_a_loaded_policy_acts_as_the_saved_one(encoded, settings, tmp_path):
    runner = ppo(environment(encoded), **settings)
    runner.learn(1)
    runner.save(str(tmp_path / "model.pt"))
    again = ppo(environment(encoded), **settings)
    again.load(str(tmp_path / "model.pt"))
    obs = again.env.get_observations()
    runner.alg.actor.reset()
    with torch.no_grad():
        for _ in range(2):  # the second time with a memory, where there is one
            assert torch.equal(again.get_inference_policy()(obs), runner.get_inference_policy()(obs))


def test_frozen_weights_are_not_saved_and_others_are_refused():
    runner = ppo(environment(encoded=False), encoder=dict(ENCODER))
    state = runner.alg.actor.state_dict()
    assert all(isinstance(x, torch.Tensor) for x in state.values())  # as RSL-RL's broadcast wants it
    file = io.BytesIO()
    torch.save(state, file)
    assert file.tell() < 1_000_000
    other = ppo(environment(encoded=False), encoder={**ENCODER, "seed": 1})
    with pytest.raises(RuntimeError, match="other weights"):
        other.alg.actor.load_state_dict(state)


def test_features_are_standardized_from_the_first_rollout_on_and_clipped():
    rng = np.random.default_rng(0)
    features = rng.normal(300.0, 250.0, (64, 3)).astype(np.float16)  # whose variance float16 does not hold
    features[:, 2] = 0.5
    obs = TensorDict({"features": torch.from_numpy(features)}, batch_size=[64])
    model = DefmModel(obs, {"actor": ["features"]}, "actor", 2, latent_dim=4)
    norm = model.feature_norms["features"]
    mean, std = features.astype(np.float64).mean(0), features.astype(np.float64).std(0)
    expected = np.clip((features - mean) / np.maximum(std, 1e-5), -5, 5)
    assert np.allclose(norm(obs["features"]).numpy(), expected, atol=1e-3)
    far = norm(torch.full((1, 3), 6e4))
    assert torch.equal(far, torch.full((1, 3), 5.0))
    model.update_normalization(TensorDict({"features": torch.zeros(64, 3).half()}, batch_size=[64]))
    assert norm.mean[0] == pytest.approx(mean[0] / 2, rel=1e-3)


@pytest.mark.parametrize(
    ("encoded", "student", "algorithm"),
    [
        (True, {}, {}),
        (True, GRU, {}),
        (False, {"encoder": INSIDE}, {"class_name": "defm_rl.rsl_rl:EncoderDistillation", "encoder_lr_scale": 0.5}),
    ],
    ids=["features", "features-gru", "inside"],
)
@pytest.mark.sweep(3)
def test_a_student_learns_what_its_teacher_does(encoded, student, algorithm, tmp_path):
    env = environment(encoded)
    teacher = ppo(env, groups=["state"])
    teacher.save(str(tmp_path / "teacher.pt"))
    runner = distillation(env, algorithm, **student)
    runner.load(str(tmp_path / "teacher.pt"))
    saved = copy.deepcopy(runner.alg.teacher.state_dict())
    losses = []
    runner.logger.log = lambda **figures: losses.append(figures["loss_dict"]["behavior"])
    runner.learn(15)
    assert np.mean(losses[-3:]) < 0.5 * np.mean(losses[:3])
    assert all(torch.equal(x, saved[name]) for name, x in runner.alg.teacher.state_dict().items())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "the actor.*has no encoder|The actor sees depth"),
        ({"encoder": dict(ENCODER), "feature_groups": ["state"], "depth_groups": []}, "depth_groups"),
        ({"encoder": {**ENCODER, "encoder": "defm_resnet19"}}, "defm_resnet18"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        ppo(environment(encoded=False), **settings)


def test_a_critic_that_sees_otherwise_cannot_share():
    obs = environment(encoded=False, cameras=("depth", "wrist")).get_observations()
    actor = DefmModel(obs, {"actor": ["depth"]}, "actor", 2, encoder=dict(ENCODER))
    with pytest.raises(ValueError, match="the actor sees depth, the critic wrist"):
        DefmModel(obs, {"critic": ["wrist"]}, "critic", 1, cnns=actor.cnns)


def test_stacked_frames_are_encoded_one_by_one():
    frames = torch.rand(2, 3, *IMAGE) + 0.5
    obs = TensorDict({"depth": frames}, batch_size=[2])
    model = DefmModel(obs, {"actor": ["depth"]}, "actor", 2, encoder=dict(ENCODER))
    encoder = DepthEncoder(image_size=IMAGE, **ENCODER)
    encoded = model.encoding(obs)["depth"]
    assert torch.allclose(encoded.unflatten(1, (3, -1))[:, 1], encoder(frames[:, 1]), atol=1e-5)


def test_a_policy_of_vectors_is_exported_as_rsl_rl_does_it():
    env = environment()
    vectors = ppo(env, groups=["state"]).alg.actor
    state = torch.rand(1, 3)
    assert torch.allclose(vectors.as_jit()(state), vectors(TensorDict({"state": state}, batch_size=[1])))
