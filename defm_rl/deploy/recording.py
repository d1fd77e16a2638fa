"""Observations of a task, gathered with a policy acting: what an export is held against, and calibrated on."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray

Act = Callable[[Mapping[str, NDArray[Any]]], NDArray[Any]]


def play(
    env: VectorEnv[Any, Any, Any], act: Act, reset: Callable[[], None], steps: int
) -> list[dict[str, NDArray[Any]]]:
    """The observations of the first steps after a reset of a vector environment, by name."""
    return _recorded(lambda: env.reset()[0], lambda action: env.step(action)[0], act, reset, steps)


def play_vec_env(env: Any, act: Act, reset: Callable[[], None], steps: int) -> list[dict[str, NDArray[Any]]]:
    """The same of a `VecEnv` of Stable-Baselines3."""
    return _recorded(env.reset, lambda action: env.step(action)[0], act, reset, steps)


def _recorded(
    begin: Callable[[], Any], step: Callable[[Any], Any], act: Act, reset: Callable[[], None], steps: int
) -> list[dict[str, NDArray[Any]]]:
    reset()
    observations = by_name(begin())
    recording = []
    for index in range(steps):
        recording.append({name: np.array(array) for name, array in observations.items()})
        if index + 1 < steps:
            observations = by_name(step(act(observations)))
    reset()
    return recording


def by_name(observations: Any) -> dict[str, NDArray[Any]]:
    """A batch of observations as a dict of arrays, whether it is one or not, and wherever its tensors are."""
    from defm_rl.observations import ONLY_KEY, as_array

    parts = observations if isinstance(observations, Mapping) else {ONLY_KEY: observations}
    return {name: as_array(part) for name, part in parts.items()}
