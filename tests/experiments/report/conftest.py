"""A study without simulations: runs whose evaluations are made up, with rates that are known."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from defm_rl.experiments.config import compose_config
from defm_rl.experiments.episodes import Episode
from defm_rl.experiments.evaluation import Cell, Options
from defm_rl.experiments.report.arms import group
from defm_rl.experiments.runs import Run, to_config

OPTIONS = Options(episodes=40, first_layout=100, num_envs=4)
SENSORS = ["ideal", "stereo", "zedx"]
# Success of each policy behind each sensor.
RATES = {
    "defm": {"ideal": 0.9, "stereo": 0.6, "zedx": 0.3},
    "noisy": {"ideal": 0.8, "stereo": 0.8, "zedx": 0.5},
    "blind": {"ideal": 0.2, "stereo": 0.2, "zedx": 0.2},
}
OVERRIDES = {
    "defm": ["encoder=efficientnet_b0", "encoder.weights=random"],
    "noisy": ["encoder=efficientnet_b0", "encoder.weights=random", "env.sensor=stereo"],
    "blind": ["encoder=blind"],
}


def episodes(rate: float, seed: int) -> list[Episode]:
    """Exactly this share of successes, spread by chance; half of the failures are collisions."""
    rng = np.random.default_rng(seed)
    lucky = rng.permutation(OPTIONS.episodes) < round(rate * OPTIONS.episodes)
    made = []
    for index, success in enumerate(lucky.tolist()):
        failure = "" if success else ("collision", "timeout")[index % 2]
        measures = {"spl": 0.9 * success, "collision": failure == "collision"}
        made.append(Episode(OPTIONS.first_layout + index, success, failure, 20 + index, 5.0 * success, measures))
    return made


def make_run(folder: Path, overrides: list[str], seed: int) -> Run:
    """A run's folder as training leaves it, but for the policy."""
    run = Run(folder)
    run.checkpoint.mkdir(parents=True)
    overrides = ["experiment=navigation", f"seed={seed}", *overrides]
    run.save_config(to_config(compose_config(overrides)), overrides)
    with_encoder = "encoder=blind" not in overrides
    encoder = {
        "kind": "defm" if with_encoder else "blind",
        "weights": "random" if with_encoder else "hub",
        "sha256": "ab" * 32 if with_encoder else None,
    }
    state = {"steps": 1000 + seed, "seconds": 1.0, "encoder": encoder}
    (run.checkpoint / "state.json").write_text(json.dumps(state))
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["steps", "seconds", "success_rate"])
        writer.writerows([(500 * step, step, step / 10) for step in range(5)])
    return run


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> list[Run]:
    """Three policies with two, two and one seeds."""
    base = tmp_path_factory.mktemp("study")
    return [
        make_run(base / f"{name}-{seed}", overrides, seed)
        for name, overrides in OVERRIDES.items()
        for seed in range(1 if name == "blind" else 2)
    ]


@pytest.fixture(scope="session")
def study(runs):
    """The runs' arms and the results behind each sensor, finished cells on disk."""
    configs = [run.config() for run in runs]
    arms = group(runs, configs)
    results = {}
    for arm in arms:
        for sensor in SENSORS:
            for run, config in zip(arm.runs, arm.configs, strict=True):
                cell = Cell(run, sensor, OPTIONS)
                name = run.folder.name.partition("-")[0]
                cell.write(config, episodes(RATES[name][sensor], seed=config.seed))
                results.setdefault((arm, sensor), []).append((cell, cell.episodes()))
    return arms, results
