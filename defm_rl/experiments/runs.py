"""A run's folder: what is in it, and how it survives an interruption."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments.config import Config, ConfigError, compose_config

_STATE = "state.json"  # of a checkpoint; written last

# What decides which policy it is, and what its observations mean. Rewards, levels, sensors and rates may change.
_POLICY = (
    *("env.id", "env.depth_size", "teacher"),
    *(f"encoder.{name}" for name in ("kind", "name", "features", "pool", "grid", "bifpn", "trainable")),
    *("encoder.latent_dim", "encoder.cameras", "encoder.standardize"),
    *("algo.name", "algo.net_arch", "algo.observations", "algo.critic_observations", "algo.activation"),
    *("algo.obs_normalization", "algo.rnn_type", "algo.rnn_hidden_dim", "algo.rnn_num_layers"),
)


@dataclass(frozen=True)
class Run:
    """The files of one run.

    config.yaml, overrides.txt: what was asked for.
    checkpoint/: what the trainer saves, and state.json.
    history.csv, learning_curve.png: the training.
    metrics.json, episodes.csv, episodes.gif: the evaluation, and what made it.
    """

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The folder of the newest whole checkpoint, whether there is one or not.

        A process that is killed while it swaps two of them leaves none under its usual name.
        """
        names = ("checkpoint", "checkpoint.new", "checkpoint.old")
        whole = (self.folder / name for name in names if (self.folder / name / _STATE).exists())
        return next(whole, self.folder / "checkpoint")

    def save_config(self, config: Config, overrides: Sequence[str]) -> None:
        """Writes what was asked for; where a run goes on, with what was asked for since."""
        self.folder.mkdir(parents=True, exist_ok=True)
        asked_for = dataclasses.replace(config, resume=None)
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(asked_for)))
        (self.folder / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides))

    def overrides(self) -> list[str]:
        """The command line that made the run.

        Raises:
            ConfigError: Where the folder holds no run.
        """
        path = self.folder / "overrides.txt"
        if not path.exists():
            raise ConfigError(f"{self.folder} holds no run: expected the folder that `defm-rl train` made.")
        return path.read_text().splitlines()

    def config(self) -> Config:
        """The run's configuration, with the weights that training settled on.

        Raises:
            ConfigError: Where the folder holds no run, or one without a checkpoint.
        """
        config = to_config(compose_config(self.overrides()))
        if not self.checkpoint.exists():
            raise ConfigError(
                f"{self.folder} holds no checkpoint: its training ended before the first one was written."
            )
        config.encoder.weights = self.state()["encoder"]["weights"]
        return config

    def state(self) -> dict[str, Any]:
        """The checkpoint's steps, seconds and encoder."""
        return cast(dict[str, Any], json.loads((self.checkpoint / _STATE).read_text()))

    def save_checkpoint(self, save: Callable[[Path], None], state: dict[str, Any]) -> None:
        """Lets `save` write a checkpoint beside the former one and swaps the two: one of them is always whole."""
        current, fresh, former = (self.folder / f"checkpoint{suffix}" for suffix in ("", ".new", ".old"))
        if self.checkpoint.exists() and self.checkpoint != current:
            self.checkpoint.rename(current)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save(fresh)
        write_json(fresh / _STATE, state)
        shutil.rmtree(former, ignore_errors=True)
        if current.exists():
            current.rename(former)
        fresh.rename(current)
        shutil.rmtree(former, ignore_errors=True)


def to_config(composed: Any) -> Config:
    """The dataclasses that a composed configuration stands for."""
    return cast(Config, OmegaConf.to_object(composed))


def check_same_policy(run: Run, config: Config) -> None:
    """Holds a configuration against the one of the run that goes on with it.

    Raises:
        ConfigError: Where it is that of another policy.
    """
    former, now = (OmegaConf.structured(x) for x in (run.config(), config))
    for key in _POLICY:
        was, is_now = OmegaConf.select(former, key), OmegaConf.select(now, key)
        if was != is_now:
            raise ConfigError(
                f"{run.folder} was trained with {key}={was}: with {key}={is_now} it would be another policy. Leave it "
                "out to go on, or start a training without resume=."
            )


def verify_encoder(state: dict[str, Any], encoder: DepthEncoder | None) -> None:
    """Holds the encoder that was loaded against the one that a checkpoint was trained with.

    Raises:
        ConfigError: Where the weights differ.
    """
    trained_with = state["encoder"].get("sha256")
    loaded = None if encoder is None else encoder.provenance.sha256
    if trained_with != loaded:
        raise ConfigError(
            f"The run was trained with weights of sha256 {trained_with}, but those at "
            f"{state['encoder'].get('weights')!r} have {loaded}: a policy means nothing on another encoder's features."
        )


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Writes a JSON file that is either whole or not there."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(content, indent=2) + "\n")
    temporary.replace(path)
