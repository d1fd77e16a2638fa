"""Episodes: what is reported of one, and rolling out a trained policy on numbered layouts."""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray
from torch import nn

from defm_rl.adaptation import Standardization
from defm_rl.experiments.config import ConfigError

Observations = Mapping[str, NDArray[Any]]

RECENT = 200  # episodes that running figures look back on
_FIELDS = ("layout_seed", "success", "failure", "steps")  # of an episode's last info, beside its measures


@dataclass(frozen=True)
class Episode:
    """How one episode went."""

    layout: int  # its number
    success: bool | None  # None: the task does not know
    failure: str  # "" where there is none, else why not: "collision", "timeout", "fall", ...
    steps: int
    reward: float
    measures: dict[str, float] = field(default_factory=dict)
    """Whatever other numbers the task reports of an episode, by their names there; yes or no as a bool."""


def settled(episodes: Sequence[Episode]) -> list[Episode]:
    """A task's episodes, of which all know of success, or none: where some do, the others have failed.

    Some environments tell of success only where there is one, and what ended before the first cannot know.
    """
    if all(episode.success is None for episode in episodes):
        return list(episodes)
    return [
        replace(episode, success=False, failure=episode.failure or "failure") if episode.success is None else episode
        for episode in episodes
    ]


class Policy(Protocol):
    """A trained policy that acts without exploring."""

    def act(self, observations: Observations) -> NDArray[Any]:
        """Actions (N, ...) of a batch of observations (N, ...) by key, given once per step and in their order."""

    def reset(self, dones: NDArray[np.bool_] | None = None) -> None:
        """Forgets what it remembers of the episodes that are over, (N,) bool, or of all."""


class Seeing(Policy, Protocol):
    """A policy that says how it sees."""

    @property
    def network(self) -> nn.Module | None:
        """What makes features of depth inside the policy; None where they are made before it, or it sees no depth."""

    def standardization(self, cameras: Sequence[str]) -> Standardization | None:
        """How the policy sees the features of its cameras; None where they come as they are."""


class WatchEpisodes(VectorWrapper):
    """Keeps account of the episodes that pass through a vector environment with same-step autoreset.

    Attributes:
        ended: The episodes that ended in the last step.
        recent: The last `RECENT` ones.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(env)
        self.ended: list[Episode] = []
        self.recent: deque[Episode] = deque(maxlen=RECENT)
        self._steps, self._rewards = np.zeros(self.num_envs, int), np.zeros(self.num_envs)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Resets; the episodes under way are forgotten."""
        self.ended = []
        self._steps[:], self._rewards[:] = 0, 0.0
        return self.env.reset(**kwargs)

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._steps += 1
        self._rewards += rewards
        self.ended = [self._episode(infos["final_info"], index) for index in np.flatnonzero(terminated | truncated)]
        self.recent.extend(self.ended)
        return observations, rewards, terminated, truncated, infos

    def _episode(self, info: dict[str, Any], index: Any) -> Episode:
        missing = [name for name in ("layout_seed", "failure") if name not in info]
        if missing:
            raise ConfigError(
                f"The environments do not report {', '.join(missing)} of an episode that has ended: expected `failure` "
                "(str, empty where there was none) and `layout_seed` (int) in its last info, and `success` (bool) if "
                "there is such a thing; got "
                f"{', '.join(name for name in info if not name.startswith('_')) or 'nothing'}."
            )
        steps, reward = int(self._steps[index]), float(self._rewards[index])
        self._steps[index], self._rewards[index] = 0, 0.0
        return Episode(
            layout=int(info["layout_seed"][index]),
            success=bool(info["success"][index]) if "success" in info else None,
            failure=str(info["failure"][index]),
            steps=steps,
            reward=reward,
            measures={
                name: values[index].item()
                for name, values in info.items()
                if name not in _FIELDS and not name.startswith("_") and values.ndim == 1 and values.dtype.kind in "biuf"
            },
        )


def run_episodes(policy: Policy, env: VectorEnv[Any, Any, Any], layouts: Sequence[int]) -> Iterator[Episode]:
    """Runs a policy until every layout's episode is over.

    Args:
        policy: The policy.
        env: Environments that were made with `layout_seeds=layouts`: they take them in order as they become free.
        layouts: The layouts to report.

    Yields:
        One episode per layout, in the order in which they end.

    Raises:
        ConfigError: Where the environments do not play these layouts, or do not say which they played.
    """
    waiting = set(layouts)
    elsewhere = np.zeros(env.num_envs, bool)  # which environments have ended another episode than those waited for
    watched = WatchEpisodes(env)
    observations, _ = watched.reset()
    policy.reset()
    while waiting:
        observations, _, terminated, truncated, _ = watched.step(policy.act(observations))
        ended = np.logical_or(terminated, truncated)
        policy.reset(ended)
        for index, episode in zip(np.flatnonzero(ended), watched.ended, strict=True):
            if episode.layout in waiting:
                waiting.remove(episode.layout)
                yield episode
            else:
                elsewhere[index] = True
        # An environment plays other episodes once all layouts have begun: where all do, nobody plays what is missing.
        if waiting and elsewhere.all():
            missing = sorted(waiting)
            raise ConfigError(
                f"The environments never played the layouts {', '.join(map(str, missing[:3]))}"
                f"{', ...' if len(missing) > 3 else ''}: they ignore `layout_seeds`, which names the episodes to play "
                f"after a reset, in this order. Their last episode said layout_seed={watched.recent[-1].layout}."
            )
