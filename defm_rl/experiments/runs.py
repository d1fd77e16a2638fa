"""A run's folder: what is in it, and how it survives an interruption."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments.config import Config, ConfigError, compose_config


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
        """The folder of the newest checkpoint."""
        return self.folder / "checkpoint"

    def save_config(self, config: Config, overrides: list[str]) -> None:
        """Writes what was asked for, once."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(config)))
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
        if not (self.checkpoint / "state.json").exists():
            raise ConfigError(
                f"{self.folder} holds no checkpoint: its training ended before the first one was written."
            )
        config.encoder.weights = self.state()["encoder"]["weights"]
        return config

    def state(self) -> dict[str, Any]:
        """The checkpoint's steps, seconds and encoder."""
        return cast(dict[str, Any], json.loads((self.checkpoint / "state.json").read_text()))

    def save_checkpoint(self, save: Callable[[Path], None], state: dict[str, Any]) -> None:
        """Writes a checkpoint, `save` into its folder, beside the former one and then swaps them: one of the two is always whole."""
        fresh, former = self.folder / "checkpoint.new", self.folder / "checkpoint.old"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save(fresh)
        write_json(fresh / "state.json", state)
        shutil.rmtree(former, ignore_errors=True)
        if self.checkpoint.exists():
            self.checkpoint.rename(former)
        fresh.rename(self.checkpoint)
        shutil.rmtree(former, ignore_errors=True)


def to_config(composed: Any) -> Config:
    """The dataclasses that a composed configuration stands for."""
    return cast(Config, OmegaConf.to_object(composed))


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
