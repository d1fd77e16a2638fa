"""Every trainer for a few iterations on our navigation task; frozen weights stay what they are, bit by bit."""

import copy
import importlib.metadata

import gymnasium
import pytest
import torch
from isaaclab_rl.rl_games import RlGamesVecEnvWrapper
from isaaclab_rl.rsl_rl import RslRlVecEnvWrapper, create_rsl_rl_runner, handle_deprecated_rsl_rl_cfg
from isaaclab_rl.sb3 import Sb3VecEnvWrapper, process_sb3_cfg
from isaaclab_rl.skrl import SkrlVecEnvWrapper
from isaaclab_tasks.utils import load_cfg_from_registry, parse_env_cfg
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecNormalize

import defm_rl.envs.isaaclab  # noqa: F401  (registers the tasks)
from defm_rl import DepthEncoder

NUM_ENVS, STEPS = 4, 4
SMALL = {"encoder": "defm_efficientnet_b0", "weights": "random", "features": "P3", "bifpn": False}


def make(variant=""):
    """The task with tiny images and random weights."""
    task = f"defm_rl/Isaac-Navigation{variant}-v0"
    cfg = parse_env_cfg(task, device="cpu", num_envs=NUM_ENVS)
    cfg.seed = 0
    cfg.scene.camera.height, cfg.scene.camera.width = 32, 48
    for group in vars(cfg.observations).values():
        features = getattr(group, "features", None)
        if features is not None:
            features.params.update(SMALL, grid=[1, 4])
    return gymnasium.make(task, cfg=cfg)


@pytest.fixture(scope="module")
def env(request):
    """One variant of the task at a time, as Isaac Lab simulates one environment at a time."""
    env = make(request.param)
    yield env
    env.close()


def variant(name):
    return pytest.mark.parametrize("env", [name], indirect=True, ids=[name or "groups"])


def weights(*encoders):
    """A copy of all weights of encoders, frozen and trained."""
    return [tensor.clone() for encoder in encoders for tensor in [*encoder.net.parameters(), *encoder.net.buffers()]]


def unchanged(before, *encoders):
    return [torch.equal(x, y) for x, y in zip(before, weights(*encoders), strict=True)]


def encoders_in(module):
    return [each for each in module.modules() if isinstance(each, DepthEncoder)]


def rsl_rl_runner(env, agent, log_dir, change=None):
    cfg = load_cfg_from_registry(env.unwrapped.spec.id, f"rsl_rl{agent}_cfg_entry_point")
    cfg.device, cfg.num_steps_per_env, cfg.max_iterations = "cpu", STEPS, 2
    cfg.algorithm.num_learning_epochs = 1
    if hasattr(cfg.algorithm, "gradient_length"):
        cfg.algorithm.gradient_length = 2
    if change:
        change(cfg)
    cfg = handle_deprecated_rsl_rl_cfg(cfg, importlib.metadata.version("rsl-rl-lib"))
    return create_rsl_rl_runner(env, cfg, log_dir=str(log_dir))


@variant("")
@pytest.mark.parametrize("agent", ["", "_recurrent"])
def test_rsl_rl_learns_on_features_that_the_environment_encodes(env, agent, tmp_path):
    env = RslRlVecEnvWrapper(env, clip_actions=1.0)
    term = env.unwrapped.observation_manager._group_obs_class_term_cfgs["depth"][0].func
    encoder = term.encoded.encoder
    frozen = weights(encoder)
    runner = rsl_rl_runner(env, agent, tmp_path)
    before = [p.detach().clone() for p in runner.alg.actor.parameters()]
    encodings = term.encoded.encodings
    runner.learn(2, init_at_random_ep_len=True)
    assert term.encoded.encodings <= encodings + 2 * STEPS + 1  # no epoch and no critic encodes again
    assert any(not torch.equal(x, y) for x, y in zip(before, runner.alg.actor.parameters(), strict=True))
    assert all(unchanged(frozen, encoder))


@variant("")
def test_rsl_rl_distills_a_teacher_that_knows_the_layout(env, tmp_path):
    env = RslRlVecEnvWrapper(env, clip_actions=1.0)
    teacher = rsl_rl_runner(env, "_teacher", tmp_path)
    teacher.learn(1)
    teacher.save(str(tmp_path / "teacher.pt"))
    student = rsl_rl_runner(env, "_distillation", tmp_path)
    student.load(str(tmp_path / "teacher.pt"))
    taught = {key: value.clone() for key, value in student.alg.teacher.state_dict().items()}
    before = [p.detach().clone() for p in student.alg.student.parameters()]
    student.learn(2)
    assert all(torch.equal(value, taught[key]) for key, value in student.alg.teacher.state_dict().items())
    assert any(not torch.equal(x, y) for x, y in zip(before, student.alg.student.parameters(), strict=True))


@variant("-Image")
@pytest.mark.parametrize("trainable", ["none", ["stage4"]])
def test_rsl_rl_trains_an_encoder_that_actor_and_critic_share(env, trainable, tmp_path):
    def change(cfg):
        cfg.actor.encoder = cfg.critic.encoder = {**SMALL, "grid": [1, 4], "features": "P4", "trainable": trainable}

    runner = rsl_rl_runner(RslRlVecEnvWrapper(env, clip_actions=1.0), "", tmp_path, change)
    (encoder,) = encoders_in(runner.alg.actor)
    assert encoders_in(runner.alg.critic) == []
    optimized = [p for group in runner.alg.optimizer.param_groups for p in group["params"]]
    assert len(optimized) == len(set(optimized))
    before = weights(encoder)
    runner.learn(2)
    assert all(unchanged(before, encoder)) == (trainable == "none")
    action = runner.get_inference_policy()(runner.env.get_observations())
    path = str(tmp_path / "model.pt")
    runner.save(path)
    again = rsl_rl_runner(runner.env, "", tmp_path, change)
    again.load(path)
    torch.testing.assert_close(again.get_inference_policy()(runner.env.get_observations()), action)


@variant("-Flat")
def test_stable_baselines3_learns_on_features(env):
    settings = process_sb3_cfg(load_cfg_from_registry("defm_rl/Isaac-Navigation-Flat-v0", "sb3_cfg_entry_point"), 4)
    settings.update(n_steps=STEPS, batch_size=8, n_epochs=1, device="cpu")
    for key in ("n_timesteps", "normalize_input", "normalize_value", "clip_obs"):
        settings.pop(key)
    normalized = VecNormalize(Sb3VecEnvWrapper(env), norm_reward=False, clip_obs=5.0)
    model = PPO(env=normalized, **settings).learn(2 * STEPS * NUM_ENVS)
    assert model._n_updates == 2
    assert model.observation_space.shape == (8 + 40 * 4,)


@variant("-Dict")
@pytest.mark.parametrize("trainable", ["none", ["stage3"]])
def test_stable_baselines3_trains_an_encoder_in_its_policy(env, trainable):
    from defm_rl.sb3 import DefmExtractor, EncoderAdam

    kwargs = {
        "features_extractor_class": DefmExtractor,
        "features_extractor_kwargs": {**SMALL, "grid": [1, 4], "trainable": trainable},
        "normalize_images": False,
        "optimizer_class": EncoderAdam,
    }
    settings = {"n_steps": STEPS, "batch_size": 8, "n_epochs": 1, "device": "cpu"}
    model = PPO("MultiInputPolicy", Sb3VecEnvWrapper(env), policy_kwargs=kwargs, **settings)
    (encoder,) = encoders_in(model.policy.features_extractor)
    before = weights(encoder)
    model.learn(2 * STEPS * NUM_ENVS)
    assert all(unchanged(before, encoder)) == (trainable == "none")


def skrl_cfg(task, entry_point, tmp_path):
    cfg = load_cfg_from_registry(task, entry_point)
    cfg["agent"].update(rollouts=STEPS, learning_epochs=1, mini_batches=2)
    cfg["agent"]["experiment"].update(directory=str(tmp_path), write_interval=0, checkpoint_interval=0)
    cfg["trainer"].update(timesteps=2 * STEPS, close_environment_at_exit=False, disable_progressbar=True)
    return cfg


@variant("-Flat")
def test_skrl_learns_on_features(env, tmp_path):
    from skrl.utils.runner.torch import Runner

    cfg = skrl_cfg("defm_rl/Isaac-Navigation-Flat-v0", "skrl_cfg_entry_point", tmp_path)
    runner = Runner(SkrlVecEnvWrapper(env), cfg)
    before = [p.detach().clone() for p in runner.agent.policy.parameters()]
    runner.run()
    assert any(not torch.equal(x, y) for x, y in zip(before, runner.agent.policy.parameters(), strict=True))


@variant("-Dict")
@pytest.mark.parametrize("trainable", ["none", ["stage3"]])
def test_skrl_trains_an_encoder_in_its_model(env, trainable, tmp_path):
    from defm_rl.skrl import DefmRunner

    cfg = skrl_cfg("defm_rl/Isaac-Navigation-Dict-v0", "defm_skrl_cfg_entry_point", tmp_path)
    cfg["models"]["encoder"] = {**SMALL, "grid": [1, 4], "trainable": trainable}
    wrapped = SkrlVecEnvWrapper(env)
    runner = DefmRunner(wrapped, cfg)
    assert runner.agent.policy is runner.agent.value
    (encoder,) = encoders_in(runner.agent.policy)
    before, head = weights(encoder), runner.agent.policy.log_std.detach().clone()
    runner.run()
    assert all(unchanged(before, encoder)) == (trainable == "none")
    assert not torch.equal(head, runner.agent.policy.log_std)
    # What skrl flattens and hands to the model is the depth in metres that the environment gives.
    observations, _ = wrapped.reset()
    given = env.unwrapped.observation_manager.compute()["policy"]
    torch.testing.assert_close(runner.agent.policy._fuse(observations), runner.agent.policy.fusion(given))


@variant("-Dict")
def test_skrl_refuses_to_standardise_metres(env, tmp_path):
    from defm_rl.skrl import DefmRunner

    cfg = skrl_cfg("defm_rl/Isaac-Navigation-Dict-v0", "defm_skrl_cfg_entry_point", tmp_path)
    cfg["agent"]["observation_preprocessor"] = "RunningStandardScaler"
    with pytest.raises(ValueError, match=r"agent\.observation_preprocessor"):
        DefmRunner(SkrlVecEnvWrapper(env), cfg)


def rl_games_runner(env, task, tmp_path, change=lambda params: None):
    from isaaclab_rl.rl_games import register_rl_games_env
    from rl_games.torch_runner import Runner

    cfg = copy.deepcopy(load_cfg_from_registry(task, "rl_games_cfg_entry_point"))
    config = cfg["params"]["config"]
    config.update(device="cpu", device_name="cpu", num_actors=NUM_ENVS, horizon_length=STEPS, minibatch_size=8)
    config.update(mini_epochs=1, max_epochs=2, train_dir=str(tmp_path), save_frequency=0, save_best_after=100)
    change(cfg["params"])
    register_rl_games_env(RlGamesVecEnvWrapper.from_agent_cfg(env, cfg))
    runner = Runner()
    runner.load(cfg)
    runner.reset()
    return runner


def rl_games_agent(runner):
    """The agent as the runner makes it, before it trains."""
    return runner.algo_factory.create(runner.algo_name, base_name="run", params=runner.params)


@variant("-Flat")
def test_rl_games_learns_on_features(env, tmp_path):
    agent = rl_games_agent(rl_games_runner(env, "defm_rl/Isaac-Navigation-Flat-v0", tmp_path))
    before = [p.detach().clone() for p in agent.model.parameters()]
    agent.train()
    assert any(not torch.equal(x, y) for x, y in zip(before, agent.model.parameters(), strict=True))


@variant("-Image")
@pytest.mark.parametrize("trainable", ["none", ["stage3"]])
def test_rl_games_trains_an_encoder_in_its_network(env, trainable, tmp_path):
    settings = {**SMALL, "grid": [1, 4], "trainable": trainable}

    def change(params):
        params["network"]["defm"]["encoder"] = settings

    agent = rl_games_agent(rl_games_runner(env, "defm_rl/Isaac-Navigation-Image-v0", tmp_path, change))
    (encoder,) = encoders_in(agent.model)
    before = weights(encoder)
    assert all(unchanged(before, DepthEncoder(image_size=(32, 48), **settings)))  # not initialised anew
    agent.train()
    assert all(unchanged(before, encoder)) == (trainable == "none")


@variant("-Image")
def test_rl_games_refuses_to_standardise_metres(env, tmp_path):
    def change(params):
        params["network"]["defm"]["encoder"] = SMALL
        params["config"]["normalize_input"] = True

    runner = rl_games_runner(env, "defm_rl/Isaac-Navigation-Image-v0", tmp_path, change)
    with pytest.raises(ValueError, match=r"config\.normalize_input"):
        rl_games_agent(runner)
