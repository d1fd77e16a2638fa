"""`defm-rl evaluate RUN...`: a trained policy on layouts it has never seen, with confidence intervals."""

import csv
import dataclasses
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from stable_baselines3.common.base_class import BaseAlgorithm

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments import policies, statistics
from defm_rl.experiments.config import USER_ERRORS, Config, ConfigError, suggest
from defm_rl.experiments.episodes import Episode, run_episodes
from defm_rl.experiments.progress import progress_bar
from defm_rl.experiments.provenance import provenance
from defm_rl.experiments.runs import Run, verify_encoder, write_json

_logger = logging.getLogger(__name__)


@dataclass
class Options:
    """What can be said after the runs, as key=value."""

    episodes: int = 200
    first_layout: int = 2_000_000  # neither training nor its own evaluation draws these
    num_envs: int = 32
    renderer: str = "auto"


def evaluate(
    config: Config, model: BaseAlgorithm, encoder: DepthEncoder | None, statistics_file: Path | None, options: Options
) -> list[Episode]:
    """Episodes of the deterministic policy on layouts `first_layout` to `first_layout + episodes - 1`, by number."""
    layouts = range(options.first_layout, options.first_layout + options.episodes)
    env_config = dataclasses.replace(config.env, renderer=options.renderer)
    num_envs = min(options.num_envs, options.episodes)
    env = policies.make_vec_env(
        env_config, blind=config.encoder.kind == "blind", num_envs=num_envs, layout_seeds=list(layouts)
    )
    try:
        observed = policies.watch(env, config.encoder, encoder, statistics_file)
        episodes = run_episodes(model, observed, layouts)
        bar = progress_bar(episodes, total=len(layouts), unit="episode", desc="evaluating", leave=False)
        return sorted(bar, key=lambda episode: episode.layout)
    finally:
        env.close()


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The figures of an evaluation, each with its 95 % interval."""
    return {
        "success_rate": statistics.rate([episode.success for episode in episodes]),
        "spl": statistics.mean([episode.spl for episode in episodes]),
        "collision_rate": statistics.rate([episode.collision for episode in episodes]),
        "steps": statistics.mean([episode.steps for episode in episodes]),
        "reward": statistics.mean([episode.reward for episode in episodes]),
    }


def write_episodes(path: Path, episodes: Sequence[Episode]) -> None:
    """One row per episode."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, [entry.name for entry in dataclasses.fields(Episode)])
        writer.writeheader()
        writer.writerows(dataclasses.asdict(episode) for episode in episodes)


def describe(figures: dict[str, Any]) -> str:
    """One line for people."""
    success, spl, collisions = figures["success_rate"], figures["spl"], figures["collision_rate"]
    return (
        f"success {success['mean']:.1%} (95 % interval {success['low']:.1%} to {success['high']:.1%}), "
        f"SPL {spl['mean']:.3f} ({spl['low']:.3f} to {spl['high']:.3f}), "
        f"collisions {collisions['mean']:.1%}, {success['episodes']} episodes"
    )


def load(run: Run) -> tuple[Config, BaseAlgorithm, DepthEncoder | None]:
    """A run's configuration, policy and encoder, the encoder's weights verified."""
    config = run.config()
    encoder = None
    if config.encoder.kind == "defm":
        encoder = policies.make_encoder(config.encoder, config.env.depth_size)
        verify_encoder(run.state(), encoder)
    model = policies.ALGORITHMS[config.algo.name].load(run.checkpoint / "model.zip", device="auto")
    return config, model, encoder


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
            config, model, encoder = load(run)
            episodes = evaluate(config, model, encoder, run.statistics, options)
            folder = run.folder / "evaluations" / f"{options.first_layout}-{options.episodes}"
            folder.mkdir(parents=True, exist_ok=True)
            write_episodes(folder / "episodes.csv", episodes)
            figures = summarize(episodes)
            made_by = {"encoder": run.state()["encoder"], "sensor": "ideal", "seed": config.seed, **provenance()}
            write_json(folder / "metrics.json", {**figures, "options": dataclasses.asdict(options), "made_by": made_by})
            _logger.info("%s: %s", run.folder, describe(figures))
            if made_by["encoder"].get("weights") == "random":
                _logger.info("  (the encoder's weights are random, not the published ones)")
    except USER_ERRORS as error:
        sys.stderr.write(f"defm-rl evaluate: {error}\n")
        return 2
    return 0
