"""A run's folder: what is in it, and how it survives an interruption."""

import dataclasses
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import MissingMandatoryValue

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments.config import Config, ConfigError
from defm_rl.experiments.quiet import log_once
from defm_rl.experiments.saved import options_of, read_config

_STATE = "state.json"  # of a checkpoint; written last
_BEFORE = "checkpoint.old"

# What decides which policy it is, and what its observations mean. Rewards, levels, sensors and rates may change.
_POLICY = (
    *("env.id", "env.depth_size", "teacher"),
    *(f"encoder.{name}" for name in ("kind", "name", "features", "pool", "grid", "bifpn", "trainable")),
    *("encoder.latent_dim", "encoder.cameras", "encoder.standardize"),
    *("algo.name", "algo.net_arch", "algo.observations", "algo.critic_observations", "algo.activation"),
    *("algo.obs_normalization", "algo.rnn_type", "algo.rnn_hidden_dim", "algo.rnn_num_layers"),
)

# What is learned from its start on: a setting of it cannot have any effect on what goes on.
_BEGINNING = ("algo.log_std_init", "algo.init_std", "algo.initial_output_scale")


@dataclass(frozen=True)
class Run:
    """The files of one run.

    config.yaml, overrides.txt: what was asked for.
    checkpoint/, checkpoint.old/: what the trainer saves, and state.json; the newest, and the one before it.
    history.csv, learning_curve.png: the training.
    metrics.json, episodes.csv, episodes.gif: the evaluation, and what made it.
    status.json: where it stands, see `defm_rl.experiments.status`.
    """

    folder: Path

    @property
    def checkpoint(self) -> Path:
        """The folder of the newest whole checkpoint, whether there is one or not.

        Two are kept. One that is damaged is named, and the other taken; a process that is killed while it swaps them
        leaves none under the usual name.
        """
        damaged = ""
        for name in ("checkpoint", "checkpoint.new", _BEFORE):
            folder = self.folder / name
            problem = _damage(folder)
            if problem is None:
                if damaged:
                    steps = _read_state(folder)["steps"]
                    log_once(f"{damaged}: {folder.name}, saved at {steps} steps, is taken.", logging.WARNING)
                return folder
            if name == "checkpoint" and folder.exists():
                damaged = f"{folder} is damaged ({problem})"
        return self.folder / "checkpoint"

    def save_config(self, config: Config, overrides: Sequence[str]) -> None:
        """Writes what was asked for; where a run goes on, with what was asked for since."""
        self.folder.mkdir(parents=True, exist_ok=True)
        asked_for = dataclasses.replace(config, resume=None)
        (self.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.structured(asked_for)))
        (self.folder / "overrides.txt").write_text("".join(f"{line}\n" for line in overrides))

    @property
    def begun(self) -> bool:
        """Whether the folder is that of a run, with a checkpoint or without."""
        return self._config_file.exists()

    @property
    def has_checkpoint(self) -> bool:
        """Whether there is one to evaluate, and to go on from."""
        return _damage(self.checkpoint) is None

    @property
    def _config_file(self) -> Path:
        return self.folder / "config.yaml"

    def overrides(self) -> list[str]:
        """The command line that made the run, and what was added where it went on."""
        return (self.folder / "overrides.txt").read_text().splitlines()

    def options(self) -> list[str]:
        """The options that decide which keys the run has, as overrides.

        Raises:
            ConfigError: Where the folder holds no run.
        """
        self._check_begun()
        return options_of(self._config_file)

    def config(self, overrides: Sequence[str] = ()) -> Config:
        """The run's configuration, with the weights that training settled on.

        Args:
            overrides: What is to be changed in it.

        Raises:
            ConfigError: Where the folder holds no run, or one without a checkpoint, or a change cannot be.
        """
        self._check_begun()
        settled = {"encoder.weights": self.state()["encoder"]["weights"]}
        return to_config(read_config(self._config_file, overrides, settled))

    def _check_begun(self) -> None:
        if self.begun:
            return
        below = runs_below(self.folder)
        hint = f" There are runs in it, such as {below[0].folder}." if below else ""
        raise ConfigError(f"{self.folder} holds no run: expected the folder that `defm-rl train` made.{hint}")

    def state(self) -> dict[str, Any]:
        """The checkpoint's steps, seconds and encoder.

        Raises:
            ConfigError: Where there is none, or none that is whole.
        """
        if not self.checkpoint.exists():
            raise ConfigError(
                f"{self.folder} holds no checkpoint: its training ended before the first one was written. Start it "
                "again."
            )
        damage = _damage(self.checkpoint)
        if damage:
            raise ConfigError(f"{self.checkpoint} is damaged ({damage}), and there is no other to go back to.")
        return _read_state(self.checkpoint)

    def save_checkpoint(self, save: Callable[[Path], None], state: dict[str, Any]) -> None:
        """Lets `save` write a checkpoint and puts it before the one of before, which is kept: one is always whole."""
        current, fresh, former = (self.folder / name for name in ("checkpoint", "checkpoint.new", _BEFORE))
        newest = self.checkpoint
        if newest != current and newest.exists():
            shutil.rmtree(current, ignore_errors=True)
            newest.rename(current)
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        save(fresh)
        written = [path for path in fresh.rglob("*") if path.is_file()]
        for path in written:
            _to_disk(path)
        sizes = {path.relative_to(fresh).as_posix(): path.stat().st_size for path in written}
        write_json(fresh / _STATE, {**state, "files": sizes})
        if current.exists():
            shutil.rmtree(former, ignore_errors=True)
            current.rename(former)
        fresh.rename(current)


def _read_state(checkpoint: Path) -> dict[str, Any]:
    return cast(dict[str, Any], json.loads((checkpoint / _STATE).read_text()))


def _damage(checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint; None where it is whole. `state.json`, written last, has its files' sizes."""
    try:
        sizes = _read_state(checkpoint).get("files", {})
    except FileNotFoundError:
        return f"it has no {_STATE}"
    except ValueError:
        return f"{_STATE} cannot be read"
    for name, size in sizes.items():
        path = checkpoint / name
        has = path.stat().st_size if path.exists() else 0
        if has != size:
            return f"{name} has {has} of {size} bytes"
    return None


def _to_disk(path: Path) -> None:
    """Makes sure that a file survives the machine's end, too."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def runs_below(folder: Path) -> list[Run]:
    """The runs in a folder and its folders, such as a sweep's: the folder itself where it is one."""
    if Run(folder).begun:
        return [Run(folder)]
    if not folder.is_dir():
        return []
    inner = sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    return [run for path in inner for run in runs_below(path)]


def to_config(composed: Any, made: Mapping[str, Any] | None = None) -> Config:
    """The dataclasses that a composed configuration stands for, with Hydra's own part or without.

    Args:
        composed: The configuration.
        made: Parts of it that are made already.

    Raises:
        ConfigError: Where a value is missing.
    """
    try:
        made = made or {}
        parts: dict[str, Any] = {
            entry.name: made[entry.name] if entry.name in made else composed[entry.name]
            for entry in dataclasses.fields(Config)
        }
        objects: dict[str, Any] = {
            name: OmegaConf.to_object(x) if OmegaConf.is_config(x) else x for name, x in parts.items()
        }
        return Config(**objects)
    except MissingMandatoryValue as error:
        raise ConfigError(str(error).splitlines()[0]) from error


def check_same_policy(run: Run, config: Config) -> None:
    """Checks that a configuration describes the same policy as the run that goes on with it.

    Raises:
        ConfigError: Where it is that of another policy, or changes what only a beginning can have.
    """
    former, now = (OmegaConf.structured(x) for x in (run.config(), config))
    for key in (*_POLICY, *_BEGINNING):
        was, is_now = OmegaConf.select(former, key), OmegaConf.select(now, key)
        if was == is_now:
            continue
        if key in _POLICY:
            raise ConfigError(
                f"{run.folder} was trained with {key}={was}: with {key}={is_now} it would be another policy. Leave it "
                "out to go on, or start a training without resume=."
            )
        raise ConfigError(
            f"{key}={is_now} says how a training begins; {run.folder} has begun with {was}. Leave it out."
        )


def verify_encoder(state: dict[str, Any], encoder: DepthEncoder | None) -> None:
    """Checks that the encoder that was loaded is the one that a checkpoint was trained with.

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
    _to_disk(temporary)
    temporary.replace(path)
