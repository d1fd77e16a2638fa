"""A sweep without trainings: runs whose success, cost and curves are made up."""

import csv
import dataclasses
import functools
import json
from pathlib import Path

import numpy as np

from defm_rl.experiments.config import Config, compose_config
from defm_rl.experiments.runs import Run, to_config


@functools.cache
def _composed(*overrides: str) -> Config:
    return to_config(compose_config(["experiment=navigation", "algo.total_steps=2000", *overrides]))


def make_run(folder: Path, overrides: list[str], seed: int, success: float | None, wall_s: float = 600.0) -> Run:
    """A run's folder as training leaves it, but for the policy; without success, as it is while it trains."""
    run = Run(folder)
    run.save_config(dataclasses.replace(_composed(*overrides), seed=seed), overrides)
    rng = np.random.default_rng(seed)
    steps = np.arange(0, 2001 if success is not None else 1001, 50)
    with (folder / "history.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["steps", "seconds", "success_rate"])
        reached = (success or 0.5) * (1 - np.exp(-steps / 500)) + rng.normal(0, 0.01, len(steps))
        writer.writerows(
            [(step, step, f"{min(max(rate, 0), 1):.4g}") for step, rate in zip(steps, reached, strict=True)]
        )
    status = {"state": "interrupted", "reason": "asked to end", "wall_s": wall_s / 2}
    if success is not None:
        status = {"state": "finished", "wall_s": wall_s}
        estimate = {"mean": success, "low": success - 0.05, "high": success + 0.05, "episodes": 200}
        reward = {"mean": 10 * success - 2, "low": 0.0, "high": 5.0, "episodes": 200}
        metrics = {
            "evaluation": {"success_rate": estimate, "failures": {}, "reward": reward},
            "training": {"steps": 2000, "seconds": wall_s - 50, "peak_memory_mb": 800.0 + seed},
        }
        (folder / "metrics.json").write_text(json.dumps(metrics))
    (folder / "status.json").write_text(json.dumps(status))
    return run
