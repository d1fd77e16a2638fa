"""A configuration that cannot be says what to write instead."""

import pytest

from defm_rl.envs import LocomotionConfig
from defm_rl.experiments.config import (
    Config,
    ConfigError,
    IsaaclabNavigationEnvConfig,
    compose_config,
    group_options,
)
from defm_rl.experiments.overrides import check_overrides
from defm_rl.experiments.runs import to_config

ENCODERS = [
    *("blind", "cnn", "efficientnet_b0", "regnet_y_400mf", "resnet18", "resnet50", "small_vit"),
    *("timm", "torchvision_resnet18", "vit_s14"),
]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("experiment=quickstat", "Did you mean 'quickstart'"),
        ("encoder=resnet19", "Did you mean 'resnet18'"),
        ("gamma=0.9", "Did you mean 'algo.gamma'"),
        ("algo.lr=3e-4", "Did you mean 'algo.learning_rate'"),
        ("encoder.trainabl=[all]", "Did you mean 'encoder.trainable'"),
        ("env.num_env=4", "Did you mean 'env.num_envs'"),
        ("experimnt=quickstart", "Did you mean 'experiment'"),
        ("algo.gamma=high", "high.*Float"),
        ("env.level", "key=value"),
        ("env.randomization.mas_scale=[1,2]", "Did you mean 'env.randomization.mass_scale'"),
        ("encoder.lr=3", "Did you mean 'encoder.learning_rate_scale'"),
        ("+foo=1", "there is no key 'foo'"),
        ("+env.foo=1", "there is no key 'env.foo'"),
        ("env.camera_hight_m=1", "Did you mean 'env.camera_height_m'"),
    ],
)
def test_a_wrong_override_is_refused_with_a_suggestion(override, message):
    with pytest.raises(ConfigError, match=message):
        check_overrides([override])


@pytest.mark.slow
def test_a_sweep_is_not_mistaken_for_a_wrong_value():
    check_overrides(["seed=0,1", "algo.gamma=choice(0.9,0.98)"])
    for sweep in ("encoder=resnet19,blind", "encoder=blind,resnet19", "encoder=blind,cnn,resnet19"):
        with pytest.raises(ConfigError, match="resnet18"):
            check_overrides(["seed=0,1", sweep])
    with pytest.raises(ConfigError, match="high"):
        check_overrides(["algo.gamma=0.9,high"])


def test_a_key_of_another_algorithm_is_refused():
    with pytest.raises(ConfigError, match=r"'algo.n_steps' is a key of algo=ppo only.*Did you mean 'algo.*_steps'"):
        check_overrides(["algo=sac", "algo.n_steps=5"])


def test_a_key_of_another_task_is_refused():
    with pytest.raises(ConfigError, match=r"'env.device' is a key of env=isaaclab_navigation and env=mjlab_lift"):
        check_overrides(["experiment=navigation", "env.device=cpu"])
    with pytest.raises(ConfigError, match=r"'env.level' is a key of env=navigation and"):
        check_overrides(["experiment=isaaclab_navigation", "env.level=boxes"])


@pytest.mark.sweep(4)
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("extra", [[], ["encoder.trainable=[all]"]], ids=["frozen", "fine-tuned"])
def test_isaac_labs_task_is_a_whole_configuration_with_every_encoder(encoder, extra):
    overrides = ["experiment=isaaclab_navigation", f"encoder={encoder}", *extra, "env.max_episode_steps=30"]
    check_overrides(overrides)
    config = to_config(compose_config(overrides))
    assert isinstance(config.env, IsaaclabNavigationEnvConfig)
    assert (config.env.max_episode_steps, config.env.device, config.algo.name) == (30, "auto", "rsl_ppo")


@pytest.mark.sweep(5)
@pytest.mark.parametrize("experiment", ["quickstart", "navigation"])
@pytest.mark.parametrize("encoder", ENCODERS)
@pytest.mark.parametrize("algo", ["ppo", "sac", "rsl_ppo", "distillation"])
def test_every_combination_of_options_is_a_whole_configuration(experiment, encoder, algo):
    config = to_config(compose_config([f"experiment={experiment}", f"encoder={encoder}", f"algo={algo}"]))
    assert isinstance(config, Config)
    assert config.algo.name == algo
    assert config.experiment == experiment


def test_no_option_is_left_out_above():
    assert set(group_options("encoder")) == {*ENCODERS, "custom"}  # which is none without a class


def test_every_setting_of_a_task_is_a_key():
    overrides = ["env=locomotion", "env.difficulty=[0,0.5]", "env.randomization.friction_scale=[0.5,1.5]"]
    task = to_config(compose_config(overrides)).env.task()
    config = LocomotionConfig(**{key: value for key, value in task.items() if key != "observations"})
    assert tuple(config.difficulty) == (0, 0.5)
    assert config.randomization.friction_scale == (0.5, 1.5)
    assert config.swing_height_m == LocomotionConfig().swing_height_m


@pytest.mark.parametrize("experiment", group_options("experiment"))
def test_every_experiment_is_a_whole_configuration(experiment):
    assert to_config(compose_config([f"experiment={experiment}"])).experiment == experiment


def test_only_the_quick_start_goes_on_without_the_published_weights():
    assert compose_config(["experiment=quickstart"]).encoder.fallback == "random"
    assert compose_config(["experiment=navigation"]).encoder.fallback == "error"
