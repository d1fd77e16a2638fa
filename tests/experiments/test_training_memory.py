"""`defm-rl memory` says beforehand what training then takes."""

import json

import pytest
import torch
from profiled import peak_bytes

from defm_rl.commands import memory
from defm_rl.experiments import environments
from defm_rl.experiments.config import compose_config
from defm_rl.experiments.episodes import WatchEpisodes
from defm_rl.experiments.memory import buffer_arrays, estimate_training
from defm_rl.experiments.runs import to_config
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers.sb3 import SB3Trainer, training_keys

SMALL = [
    "experiment=navigation",
    "env.num_envs=3",
    "env.depth_size=[24,48]",
    "env.renderer=rays",
    "encoder.weights=random",
]
PPO = ["algo=ppo", "algo.n_steps=6", "algo.batch_size=18", "algo.n_epochs=1"]
SAC = ["algo=sac", "algo.buffer_size=100", "algo.batch_size=16", "algo.learning_starts=6"]
FROZEN = ["encoder=efficientnet_b0"]
TRAINED = ["encoder=efficientnet_b0", "encoder.trainable=[all]"]
CNN = ["encoder=cnn", "env.depth_size=[48,64]"]


def trained_by(overrides):
    """The configuration, and the model that training makes of it."""
    config = to_config(compose_config(overrides))
    encoder = environments.settle_weights(config.encoder, config.env.depth_size)
    env = make_task(config.env).make(training_keys(config))
    return config, SB3Trainer(config, WatchEpisodes(environments.encode_once(env, config.encoder, encoder))).model


@pytest.mark.parametrize("encoder", [FROZEN, TRAINED, CNN, ["encoder=blind"]])
@pytest.mark.parametrize("algo", [PPO, SAC])
@pytest.mark.sweep(3)
def test_the_buffer_is_as_large_as_it_was_said_to_be(algo, encoder):
    config, model = trained_by([*SMALL, *algo, *encoder])
    estimate = estimate_training(config)
    buffer = model.replay_buffer if config.algo.name == "sac" else model.rollout_buffer
    assert estimate.buffer == sum(array.nbytes for _, array in buffer_arrays(buffer))
    assert estimate.transitions == buffer.buffer_size * buffer.n_envs
    assert estimate.policy_weights == sum(x.nbytes for x in (*model.policy.parameters(), *model.policy.buffers()))


@pytest.mark.parametrize("algo", [PPO, pytest.param(SAC, marks=pytest.mark.slow)])
def test_a_gradient_step_takes_what_it_was_said_to(algo):
    config, model = trained_by([*SMALL, *algo, *TRAINED])
    estimate = estimate_training(config, "cpu")
    model.learn(18)
    for parameter in model.policy.parameters():
        parameter.grad = None

    def step():
        model.train() if config.algo.name == "ppo" else model.train(1, config.algo.batch_size)

    assert estimate.update == pytest.approx(peak_bytes(step), rel=0.1)
    states = [
        state
        for module in model.policy.modules()
        if hasattr(module, "optimizer")
        for state in module.optimizer.state.values()
    ]
    assert estimate.optimizer == sum(state[name].nbytes for state in states for name in ("exp_avg", "exp_avg_sq"))


def test_a_frozen_encoder_makes_transitions_small_and_gradient_steps_light():
    frozen, trained = (estimate_training(to_config(compose_config([*SMALL, *PPO, *x]))) for x in (FROZEN, TRAINED))
    assert frozen.update < 0.2 * trained.update
    assert frozen.encoder_weights > 0 == trained.encoder_weights
    assert frozen.transition_with_images == trained.transition_with_images
    assert trained.transition_with_images - trained.transition == (12 - 4) * 24 * 48


@pytest.mark.slow
@pytest.mark.parametrize("algo", [PPO, SAC])
def test_gradient_steps_are_estimated_for_a_gpu_without_one(algo):
    config = to_config(compose_config([*SMALL, *algo, *TRAINED]))
    on_cpu, on_gpu = (estimate_training(config, device) for device in ("cpu", "cuda"))
    assert on_gpu.update == pytest.approx(on_cpu.update, rel=0.1)
    assert on_gpu.policy_weights == on_cpu.policy_weights


@pytest.mark.slow
def test_the_command_prints_a_table_or_json(capsys):
    assert memory.main([*SMALL, *PPO, *FROZEN]) == 0
    assert "buffer of 18 transitions" in capsys.readouterr().out
    assert memory.main(["--json", "--device=cuda", *SMALL, *PPO, *FROZEN]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["device"] == "cuda"
    assert figures["host_total"] == figures["buffer"] + figures["reordering"]


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("env.num_env=4", "Did you mean 'env.num_envs'"),
        ("algo=rsl_ppo", "algo=ppo and algo=sac only"),
        ("--jsn", "there is no option '--jsn'"),
        ("env.level=nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_is_refused_as_in_training(argument, message, capsys):
    threads = torch.get_num_threads()
    assert memory.main(["experiment=quickstart", argument]) == 2
    assert message in capsys.readouterr().err
    assert torch.get_num_threads() == threads
