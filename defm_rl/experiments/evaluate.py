"""`defm-rl evaluate RUN...`: a trained policy on layouts it has never seen, with confidence intervals."""

import csv
import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments import environments, statistics
from defm_rl.experiments.config import USER_ERRORS, Config, ConfigError, suggest
from defm_rl.experiments.episodes import Episode, Policy, run_episodes
from defm_rl.experiments.progress import progress_bar
from defm_rl.experiments.provenance import provenance
from defm_rl.experiments.runs import Run, verify_encoder, write_json
from defm_rl.experiments.trainers import load_policy

_logger = logging.getLogger(__name__)


@dataclass
class Options:
    """What can be said after the runs, as key=value."""

    episodes: int = 200
    first_layout: int = 2_000_000  # neither training nor its own evaluation draws these
    num_envs: int = 32
    renderer: str = "auto"


def evaluate(
    config: Config, policy: Policy, encoder: DepthEncoder | None, options: Options, sensor: str | None = None
) -> list[Episode]:
    """Episodes of the policy on layouts `first_layout` to `first_layout + episodes - 1`, by number.

    Args:
        config: The experiment.
        policy: Its policy.
        encoder: Its encoder, where it has one.
        options: Which episodes, and how.
        sensor: Seen with this one in the place of the configuration's.
    """
    layouts = range(options.first_layout, options.first_layout + options.episodes)
    env_config = dataclasses.replace(config.env, renderer=options.renderer)
    num_envs = min(options.num_envs, options.episodes)
    env = environments.make_vec_env(
        env_config,
        environments.policy_keys(config.encoder, config.algo),
        sensor=sensor,
        seed=config.seed,
        num_envs=num_envs,
        layout_seeds=list(layouts),
    )
    try:
        seen = environments.encode_once(env, config.encoder, encoder)
        episodes = run_episodes(policy, seen, layouts)
        bar = progress_bar(episodes, total=len(layouts), unit="episode", desc="evaluating", leave=False)
        return sorted(bar, key=lambda episode: episode.layout)
    finally:
        env.close()


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The figures of an evaluation, each with its 95 % interval; why episodes failed, by failure."""
    failures = sorted({episode.failure for episode in episodes if episode.failure})
    figures: dict[str, Any] = {
        "success_rate": statistics.rate([episode.success for episode in episodes]),
        "failures": {name: statistics.rate([episode.failure == name for episode in episodes]) for name in failures},
        "steps": statistics.mean([episode.steps for episode in episodes]),
        "reward": statistics.mean([episode.reward for episode in episodes]),
    }
    for name, example in episodes[0].measures.items():
        values = [episode.measures[name] for episode in episodes]
        if isinstance(example, bool):
            figures[f"{name}_rate"] = statistics.rate(np.asarray(values, bool))
        else:
            figures[name] = statistics.mean(values)
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


def describe(figures: dict[str, Any]) -> str:
    """One line for people."""
    success = figures["success_rate"]
    parts = [f"success {success['mean']:.1%} (95 % interval {success['low']:.1%} to {success['high']:.1%})"]
    if "spl" in figures:
        spl = figures["spl"]
        parts.append(f"SPL {spl['mean']:.3f} ({spl['low']:.3f} to {spl['high']:.3f})")
    parts += [f"{name} {share['mean']:.1%}" for name, share in figures["failures"].items()]
    return ", ".join([*parts, f"{success['episodes']} episodes"])


def load(run: Run) -> tuple[Config, Policy, DepthEncoder | None]:
    """A run's configuration, policy and encoder, the encoder's weights verified."""
    config = run.config()
    encoder = None
    if config.encoder.kind == "defm":
        encoder = environments.make_encoder(config.encoder, config.env.depth_size)
        verify_encoder(run.state(), encoder)
    return config, load_policy(config, run.checkpoint), encoder


def parse_options(arguments: Sequence[str]) -> tuple[list[Run], Options]:
    """Runs and options from the command line.

    Raises:
        ConfigError: For an unknown key, a value that does not fit, or no run at all.
    """
    runs = [Run(Path(argument)) for argument in arguments if "=" not in argument]
    names = [entry.name for entry in dataclasses.fields(Options)]
    overrides = [argument for argument in arguments if "=" in argument]
    for override in overrides:
        key = override.partition("=")[0]
        if key not in names:
            raise ConfigError(f"{override!r}: there is no key {key!r}.{suggest(key, names)}")
    if not runs:
        raise ConfigError("Name a run: defm-rl evaluate runs/quickstart/DATE [episodes=200] [first_layout=2000000]")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(Options), OmegaConf.from_dotlist(overrides))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    options = OmegaConf.to_object(merged)
    assert isinstance(options, Options)
    if options.episodes < 1:
        raise ConfigError(f"episodes must be at least 1, got {options.episodes}.")
    return runs, options


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        runs, options = parse_options(arguments)
        for run in runs:
            config, policy, encoder = load(run)
            episodes = evaluate(config, policy, encoder, options)
            folder = run.folder / "evaluations" / f"{options.first_layout}-{options.episodes}"
            folder.mkdir(parents=True, exist_ok=True)
            write_episodes(folder / "episodes.csv", episodes)
            figures = summarize(episodes)
            made_by = {"encoder": run.state()["encoder"], "sensor": config.env.sensor, "seed": config.seed, **provenance()}
            write_json(folder / "metrics.json", {**figures, "options": dataclasses.asdict(options), "made_by": made_by})
            _logger.info("%s: %s", run.folder, describe(figures))
            if made_by["encoder"].get("weights") == "random":
                _logger.info("  (the encoder's weights are random, not the published ones)")
    except USER_ERRORS as error:
        sys.stderr.write(f"defm-rl evaluate: {error}\n")
        return 2
    return 0
