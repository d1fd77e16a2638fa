"""The examples are configurations of today; what of them can be made here is."""

from pathlib import Path

import pytest

from defm_rl.commands import train
from defm_rl.experiments.config import ConfigError, compose_config, with_search_path
from defm_rl.experiments.overrides import check_overrides
from defm_rl.experiments.runs import Run, to_config

EXAMPLES = Path(__file__).parent.parent / "examples"
CONFIGS = sorted(EXAMPLES.glob("*/experiment/*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
@pytest.mark.parametrize("option", ["--config-dir", "hydra.searchpath"])
def test_every_example_is_a_configuration(path, option):
    folder = path.parent.parent
    added = ["--config-dir", str(folder)] if option == "--config-dir" else [f"hydra.searchpath=[file://{folder}]"]
    config = to_config(compose_config(with_search_path([f"experiment={path.stem}", *added])))
    assert config.experiment == path.stem
    readme = (EXAMPLES / "README.md").read_text()
    assert f"experiment={path.stem}" in readme
    assert config.env.id in readme


def test_a_folder_of_configurations_is_part_of_what_an_error_lists():
    arguments = with_search_path(["experiment=minworld_hallway", f"--config-dir={EXAMPLES / 'miniworld'}"])
    with pytest.raises(ConfigError, match="Did you mean 'miniworld_hallway'"):
        check_overrides(arguments)
    with pytest.raises(ConfigError, match="say the same"):
        with_search_path([*arguments, "--config-dir", str(EXAMPLES)])


def test_an_experiment_of_ones_own_is_trained_and_resumed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my conf" / "experiment").mkdir(parents=True)
    (tmp_path / "my conf" / "experiment" / "poles.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n  - override /env: gymnasium\n  - override /encoder: blind\n"
        "experiment: poles\nenv:\n  id: CartPole-v1\n  num_envs: 2\n"
        "algo:\n  n_steps: 8\n  batch_size: 16\n  n_epochs: 1\n  total_steps: 64\n"
        "evaluation:\n  episodes: 2\n  clips: 0\n"
    )
    assert train.main(["--config-dir", "my conf", "experiment=poles", "hydra.run.dir=run"]) == 0
    assert Run(Path("run")).state()["steps"] == 64
    assert train.main(["resume=run", "algo.total_steps=80"]) == 0
    assert Run(Path("run")).state()["steps"] == 80
