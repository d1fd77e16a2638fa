"""The registered tasks with their runner configurations under mjlab's own runners, and episodes with numbers."""

import dataclasses

import pytest
import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import RslRlVecEnvWrapper
from mjlab.tasks.registry import load_env_cfg, load_rl_cfg, load_runner_cls

import defm_rl.envs.mjlab as tasks
from defm_rl.envs.mjlab.numbered import DRAWN, NumberedEnv
from defm_rl.mjlab import DefmFeatures, depth_image
from defm_rl.mjlab.runners import EncoderPpoCfg
from defm_rl.rsl_rl import DefmModel

RANDOM = {"encoder": "defm_efficientnet_b0", "weights": "random"}


def small(task, num_envs=2):
    """A task's configuration with a light encoder, and few and small pieces of terrain."""
    cfg = load_env_cfg(task)
    cfg.seed, cfg.scene.num_envs = 0, num_envs
    cfg.observations["depth"].terms["features"].params.update(RANDOM)
    for sensor in cfg.scene.sensors:
        if "depth" in getattr(sensor, "data_types", ()):
            sensor.height = sensor.width = 32
    generator = cfg.scene.terrain.terrain_generator
    if generator is not None:
        cfg.scene.terrain.terrain_generator = dataclasses.replace(generator, num_rows=1, num_cols=1, border_width=1.0)
        cfg.scene.terrain.max_init_terrain_level = 0
    return cfg


def trained(task, env_cfg, rl_cfg, folder):
    """mjlab's runner after an iteration."""
    rl_cfg.num_steps_per_env, rl_cfg.logger, rl_cfg.upload_model = 4, "tensorboard", False
    rl_cfg.algorithm.num_learning_epochs = 1
    env = RslRlVecEnvWrapper(ManagerBasedRlEnv(env_cfg, "cpu"))
    runner = load_runner_cls(task)(env, dataclasses.asdict(rl_cfg), str(folder), "cpu")
    runner.learn(1)
    return env, runner


@pytest.mark.parametrize("task", [tasks.LIFT_CUBE, tasks.VELOCITY_GO1, tasks.VELOCITY_G1])
def test_a_task_trains_on_features_under_mjlabs_runner_and_is_exported(task, tmp_path):
    env, runner = trained(task, small(task), load_rl_cfg(task), tmp_path)
    observations = env.unwrapped.observation_manager
    assert "height_scan" not in observations.active_terms["actor"]
    term = observations.get_term_cfg("depth", "features").func
    assert isinstance(term, DefmFeatures)
    metres = term.encoded.camera.camera.read()
    assert ((metres > 0).flatten(1).float().mean(1) > 0.1).all()  # it looks at something
    actor = runner.alg.get_policy()
    assert isinstance(actor, DefmModel)
    assert actor.feature_groups == ["depth"]
    assert (tmp_path / f"{tmp_path.name}.onnx").exists()
    env.close()


def test_an_encoder_is_trained_in_the_policy_under_mjlabs_runner(tmp_path):
    env_cfg, rl_cfg = small(tasks.LIFT_CUBE), load_rl_cfg(tasks.LIFT_CUBE)
    env_cfg.observations["depth"].terms = {"depth": depth_image("camera_d405", sensor_model="stereo")}
    settings = {**RANDOM, "features": "P3", "bifpn": False, "trainable": "all"}
    rl_cfg.actor = dataclasses.replace(rl_cfg.actor, encoder=settings, feature_groups=None)
    rl_cfg.obs_groups = {"actor": ("actor", "depth"), "critic": ("critic",)}
    rl_cfg.algorithm = EncoderPpoCfg(share_cnn_encoders=False)
    env, runner = trained(tasks.LIFT_CUBE, env_cfg, rl_cfg, tmp_path)
    assert any(key.startswith("encoding.") for key in runner.alg.save()["actor_state_dict"])
    env.close()


def beginning(env, number):
    """Where the cube lies in the environment that plays an episode."""
    index = env.numbers.tolist().index(number)
    return env.scene["cube"].data.root_link_pos_w[index] - env.scene.env_origins[index]


def test_how_an_episode_begins_follows_from_its_number_wherever_it_is_played():
    cfg = small(tasks.LIFT_CUBE)
    first = NumberedEnv(cfg, "cpu", numbers=[11, 12])
    first.reset(seed=1)
    other = NumberedEnv(small(tasks.LIFT_CUBE, num_envs=3), "cpu", numbers=[12, 11])
    other.reset(seed=2)
    assert other.numbers.tolist() == [12, 11, DRAWN]
    for number in (11, 12):
        torch.testing.assert_close(beginning(first, number), beginning(other, number), atol=1e-5, rtol=0)
    assert (beginning(first, 11) - beginning(first, 12)).abs().max() > 1e-3
    first.episode_length_buf[:] = first.max_episode_length
    first.step(torch.zeros(2, first.action_manager.total_action_dim))
    assert first.numbers.tolist() == [DRAWN, DRAWN]
    assert first.knows_success
    assert not first.succeeded.any()
