"""Evaluating a trained policy on numbered layouts, behind any sensor; what comes of it is kept with the run."""

import contextlib
import csv
import dataclasses
import hashlib
import json
import pickle
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from defm_rl.encoders import DepthEncoder
from defm_rl.encoders.weights import file_sha256
from defm_rl.errors import UserError
from defm_rl.experiments import environments, statistics
from defm_rl.experiments.config import Config, ConfigError, refused_settings
from defm_rl.experiments.episodes import Episode, Policy, Seeing, run_episodes, settled
from defm_rl.experiments.progress import progress_bar
from defm_rl.experiments.provenance import provenance
from defm_rl.experiments.runs import Run, verify_encoder, write_json
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers import load_policy


@dataclass
class Options:
    """Which episodes, and how they are run."""

    episodes: int = 200
    first_layout: int = 2_000_000  # neither training nor its own evaluation draws these
    num_envs: int = 32
    renderer: str = "auto"


def evaluate(
    config: Config, policy: Policy, encoder: DepthEncoder | None, options: Options, sensor: str | None = None
) -> list[Episode]:
    """Episodes of the policy on layouts `first_layout` to `first_layout + episodes - 1`, by number.

    Layouts were not seen in training, and each has the same noise, latency and mounting of the sensor whoever plays it,
    beside whatever others: these follow the layout's number and the step of the episode.

    Args:
        config: The experiment.
        policy: Its policy.
        encoder: Its encoder, where it has one.
        options: Which episodes, and how.
        sensor: Seen with this one in the place of the configuration's.

    Raises:
        ConfigError: For layouts that training could draw, or a setting that the task refuses.
    """
    layouts = environments.named_layouts(options.first_layout, options.episodes)
    num_envs = min(options.num_envs, options.episodes)
    with refused_settings():
        env = make_task(config.env).make_encoded(
            environments.policy_keys(config.encoder, config.algo),
            config.encoder,
            encoder,
            sensor=sensor,
            renderer=options.renderer,
            num_envs=num_envs,
            layouts=layouts,
        )
    try:
        episodes = run_episodes(policy, env, layouts)
        bar = progress_bar(episodes, total=len(layouts), unit="episode", desc=sensor or "evaluating", leave=False)
        return settled(sorted(bar, key=lambda episode: episode.layout))
    finally:
        env.close()


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The figures of an evaluation, each with its 95 % interval; why episodes failed, by failure."""
    episodes = settled(episodes)
    failures = sorted({episode.failure for episode in episodes if episode.failure})
    successes = [episode.success for episode in episodes if episode.success is not None]
    figures: dict[str, Any] = {
        **({"success_rate": statistics.rate(successes)} if successes else {}),
        "failures": {name: statistics.rate([episode.failure == name for episode in episodes]) for name in failures},
        "steps": statistics.mean([episode.steps for episode in episodes]),
        "reward": statistics.mean([episode.reward for episode in episodes]),
    }
    for name, example in episodes[0].measures.items():
        values = np.array([episode.measures[name] for episode in episodes])
        if isinstance(example, bool):
            figures[f"{name}_rate"] = statistics.rate(values)
        elif not np.isnan(values).all():  # NaN: an episode has no such figure, as a failure has no time to success
            figures[name] = statistics.mean(values[~np.isnan(values)])
    return figures


def write_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """One row per episode: what every task reports, then the task's own measures."""
    rows = []
    for episode in episodes:
        row = dataclasses.asdict(episode)
        measures = row.pop("measures")
        rows.append({**row, **measures})
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_episodes(path: Path) -> list[Episode]:
    """What `write_episodes` wrote."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    own = {entry.name for entry in dataclasses.fields(Episode)}
    return [
        Episode(
            layout=int(row["layout"]),
            success=row["success"] == "True" if row["success"] else None,
            failure=row["failure"],
            steps=int(row["steps"]),
            reward=float(row["reward"]),
            measures={name: _number(text) for name, text in row.items() if name not in own},
        )
        for row in rows
    ]


def _number(text: str) -> float:
    return text == "True" if text in ("True", "False") else float(text)


def describe(figures: dict[str, Any]) -> str:
    """One line for people."""
    reward = figures["reward"]
    parts = [f"reward {reward['mean']:.4g} (95 % interval {reward['low']:.4g} to {reward['high']:.4g})"]
    if "success_rate" in figures:
        success = figures["success_rate"]
        parts = [f"success {success['mean']:.1%} (95 % interval {success['low']:.1%} to {success['high']:.1%})"]
    if "spl" in figures:
        spl = figures["spl"]
        parts.append(f"SPL {spl['mean']:.3f} ({spl['low']:.3f} to {spl['high']:.3f})")
    parts += [f"{name} {share['mean']:.1%}" for name, share in figures["failures"].items()]
    return ", ".join([*parts, f"{reward['episodes']} episodes"])


def load(run: Run) -> tuple[Config, Seeing, DepthEncoder | None]:
    """A run's configuration, policy and encoder, the encoder's weights verified; settles the threads for them.

    Raises:
        ConfigError: Where the folder holds no run, no checkpoint, or one that cannot be read.
    """
    config = run.config()
    task = make_task(config.env)
    task.check(config)
    encoder = None
    if config.encoder.kind == "defm":
        encoder = environments.make_encoder(config.encoder, task.depth_size(config.encoder))
        verify_encoder(run.state(), encoder)
    settle_threads(config)
    try:
        return config, load_policy(config, run.checkpoint), encoder
    except UserError:
        raise
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, zipfile.BadZipFile, pickle.PickleError) as error:
        raise ConfigError(f"The checkpoint of {run.folder} cannot be read: {error}") from error


def settle_threads(config: Config) -> None:
    """Gives PyTorch as many threads as the policy has use for.

    One that trains no images gains nothing from more than one, and loses much where they have to share a core with
    others: they wait for each other after every operation. A frozen encoder has threads of its own.
    """
    if config.encoder.kind != "cnn" and not config.encoder.trainable:
        torch.set_num_threads(1)


@contextlib.contextmanager
def threads_put_back() -> Iterator[None]:
    """Puts PyTorch's number of threads back to what it was: what comes next may have use for them."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@dataclass(frozen=True)
class Cell:
    """One run's policy behind one sensor: a folder with episodes.csv and, written last, metrics.json.

    Attributes:
        run: The run.
        sensor: The sensor's name.
        options: Which episodes, and how.
        adapted: A file of adapted weights that take the place of the encoder's own.
    """

    run: Run
    sensor: str
    options: Options
    adapted: Path | None = None

    @property
    def folder(self) -> Path:
        """Where the results are kept, with the run."""
        folder = self.run.folder / "evaluations" / f"{self.options.first_layout}-{self.options.episodes}"
        if self.adapted is not None:
            folder /= f"adapted-{file_sha256(self.adapted)[:12]}"
        return folder / self.sensor

    @property
    def finished(self) -> bool:
        """Whether there are results, of the run's newest checkpoint and of these very episodes."""
        path = self.folder / "metrics.json"
        if not path.exists():
            return False
        metrics = json.loads(path.read_text())
        same_options: bool = metrics["options"] == dataclasses.asdict(self.options)
        return same_options and metrics["made_by"].get("checkpoint") == fingerprint(self.run)

    def metrics(self) -> dict[str, Any]:
        """The figures with what made them."""
        metrics: dict[str, Any] = json.loads((self.folder / "metrics.json").read_text())
        return metrics

    def episodes(self) -> list[Episode]:
        """The episodes, in order of their layouts."""
        return read_episodes(self.folder / "episodes.csv")

    def write(self, config: Config, episodes: Sequence[Episode]) -> None:
        """Keeps the results: until the last file is written the cell is not finished."""
        self.folder.mkdir(parents=True, exist_ok=True)
        metrics = self.folder / "metrics.json"
        metrics.unlink(missing_ok=True)
        write_episodes(self.folder / "episodes.csv", episodes)
        made_by = {
            "experiment": config.experiment,
            "encoder": self.run.state()["encoder"],
            "checkpoint": fingerprint(self.run),
            "sensor": self.sensor,
            "trained_with": make_task(config.env).sensor,
            "adapted": None if self.adapted is None else file_sha256(self.adapted),
            "seed": config.seed,
            **provenance(),
        }
        write_json(metrics, {**summarize(episodes), "options": dataclasses.asdict(self.options), "made_by": made_by})


def fingerprint(run: Run) -> str:
    """The sha256 of a run's checkpoint, all its files together."""
    digest = hashlib.sha256()
    for file in sorted(path for path in run.checkpoint.rglob("*") if path.is_file()):
        digest.update(file.relative_to(run.checkpoint).as_posix().encode())
        digest.update(file.read_bytes())
    return digest.hexdigest()
