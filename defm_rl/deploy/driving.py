"""An exported file in the place of a run's policy, in the run's own task."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from defm_rl.deploy.recording import by_name
from defm_rl.deploy.runtime import Policy
from defm_rl.experiments.adapted import load_adapted
from defm_rl.experiments.environments import named_layouts, policy_keys
from defm_rl.experiments.episodes import Episode, run_episodes
from defm_rl.experiments.evaluation import Options, evaluate, summarize, threads_put_back
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import make_task


class FilePolicy:
    """An exported file as experiments have policies: of batches, in a simulator, where no time passes.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        # Whatever the simulator gave, experiments make metres of it.
        self._policy = Policy(path, depth_unit="m", clock=None, deadline_s=math.inf, min_valid_share=0.0)

    def act(self, observations: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
        """Actions of a batch of observations before anything is encoded."""
        names = [wanted.name for wanted in self._policy.contract.inputs]
        observations = by_name(observations)
        given: dict[str, Any] = {name: observations[name] for name in names}
        # Of one environment, (1, H, W) may be one frame to the runtime; here all are batches.
        return self._policy.act(**given).reshape(-1, *self._policy.contract.action.shape)

    def reset(self, dones: NDArray[np.bool_] | None = None) -> None:
        """Forgets the episodes that are over, or all."""
        self._policy.reset(dones)


def drive(run: Run, path: Path, options: Options) -> list[Episode]:
    """Episodes of a file on a run's task, by layout: the file alone sees and acts.

    Args:
        run: The run whose task it is.
        path: The exported file.
        options: Which episodes, and how.
    """
    config = run.config()
    layouts = named_layouts(options.first_layout, options.episodes)
    env = make_task(config.env).make(
        policy_keys(config.encoder, config.algo),
        num_envs=min(options.num_envs, options.episodes),
        seed=options.first_layout,
        layouts=layouts,
        renderer=options.renderer,
    )
    try:
        return sorted(run_episodes(FilePolicy(path), env, layouts), key=lambda episode: episode.layout)
    finally:
        env.close()


def success(folder: Path, path: Path, episodes: int, adapted: Path | None = None) -> dict[str, dict[str, Any]]:
    """The figures of a run's policy and of a file made of it, on the same layouts, under "run" and "file".

    Args:
        folder: The run's.
        path: The exported file.
        episodes: How many layouts.
        adapted: The weights that took the place of the encoder's own, where some did.
    """
    run, options = Run(folder), Options(episodes=episodes)
    with threads_put_back():
        config, policy, encoder = load_adapted(run, adapted)
        before = evaluate(config, policy, encoder, options)
    return {"run": summarize(before), "file": summarize(drive(run, path, options))}
