"""Clean depth of a task's scenes, as its policy, random actions, or both come by it."""

from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv, VectorWrapper
from numpy.typing import NDArray

from defm_rl.adaptation import Frames
from defm_rl.encoders import DepthEncoder
from defm_rl.experiments import environments
from defm_rl.experiments.config import Config, ConfigError
from defm_rl.experiments.episodes import Policy
from defm_rl.experiments.progress import progress_bar
from defm_rl.experiments.tasks import IDEAL, Ability, make_task
from defm_rl.observations import as_array

DRIVERS = ("both", "policy", "random")
_NOISE = 0.6  # of half the actions' range: the largest on the policy's actions
_RANDOM_SHARE = 0.6  # the largest of actions that are drawn at random where both drive
_SEED_STEPS = 1 << 40  # a seed of its own, which a training that goes on after some steps does not take


class _Recorder(VectorWrapper):
    """Keeps the depth of every so many steps, as the environment gives it, and which episode it is of."""

    def __init__(self, env: VectorEnv[Any, Any, Any], cameras: tuple[str, ...], every: int) -> None:
        super().__init__(env)
        self._cameras = cameras
        self._every, self._steps = every, 0
        self._episode = np.arange(self.num_envs)
        self.depth: list[NDArray[Any]] = []
        self.scenes: list[NDArray[np.int64]] = []
        self.views: list[NDArray[np.int64]] = []

    @property
    def count(self) -> int:
        """Frames so far."""
        return sum(map(len, self.depth))

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Resets and keeps."""
        observations, infos = self.env.reset(**kwargs)
        self._keep(observations)
        return observations, infos

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Steps and keeps; with same-step autoreset what comes after an end is of the next episode."""
        observations, rewards, terminated, truncated, infos = self.env.step(actions)
        self._episode = self._episode + self.num_envs * np.logical_or(terminated, truncated)
        self._keep(observations)
        return observations, rewards, terminated, truncated, infos

    def _keep(self, observations: dict[str, NDArray[Any]]) -> None:
        self._steps += 1
        if (self._steps - 1) % self._every:
            return
        for view, camera in enumerate(self._cameras):
            self.depth.append(as_array(observations[camera])[:, 0].astype(np.float16))
            self.scenes.append(self._episode)
            self.views.append(np.full(self.num_envs, view))


def task_frames(
    config: Config,
    count: int,
    policy: Policy | None = None,
    encoder: DepthEncoder | None = None,
    *,
    by: str = "both",
    seed: int = 0,
    num_envs: int | None = None,
    every: int = 1,
    noise: float = 1.0,
) -> Frames:
    """Frames of layouts that evaluations never use, seen ideally.

    Each episode has a noise of its own, from none to the largest and mostly little: what the policy sees when all goes
    well is among the frames, and what it sees when it does not. With the largest in all of them a robot that walks
    would never get far.

    Args:
        config: The experiment.
        count: How many at the least.
        policy: What drives, with noise on its actions; without it actions are random.
        encoder: The policy's, where depth is encoded before it.
        by: "policy", "random", or "both": the policy, but for a share of random actions in the episodes with noise.
        seed: Of layouts and actions.
        num_envs: How many environments take turns, in the place of the configuration's number; with one, frames are in
            order of time.
        every: One of so many steps is kept: the next ones look nearly the same.
        noise: How much of the noise on the policy's actions there is; 0: it drives as it was trained to.

    Raises:
        ConfigError: For a task without depth, or a driver that there is not.
    """
    if by not in DRIVERS:
        raise ConfigError(f"by={by}: frames come by {', '.join(DRIVERS)}.")
    cameras = environments.camera_keys(config.encoder)
    keys = environments.policy_keys(config.encoder, config.algo) if policy is not None else cameras
    task = make_task(config.env)
    task.require(Ability.FRAMES)
    env = task.make(keys, sensor=IDEAL, seed=seed, num_envs=num_envs)
    recorder = _Recorder(env, cameras, every)
    seen = recorder if policy is None else environments.encode_once(recorder, config.encoder, encoder)
    rng = np.random.default_rng(seed)
    low, high = env.single_action_space.low, env.single_action_space.high  # type: ignore[attr-defined]
    shape = (env.num_envs, *low.shape)
    levels = _noise_levels(rng, env.num_envs)
    bar = progress_bar(total=count, unit="frame", desc="collecting", leave=False)
    try:
        observations, _ = seen.reset(seed=environments.training_seed(seed, _SEED_STEPS))
        if policy is not None:
            policy.reset()
        while recorder.count < count:
            actions = rng.uniform(low, high, shape)
            if policy is not None and by != "random":
                level = noise * levels.reshape(-1, *[1] * low.ndim)
                driven = policy.act(observations) + rng.normal(0, _NOISE, shape) * level * (high - low) / 2
                draws = rng.random(level.shape) < _RANDOM_SHARE * level if by == "both" else False
                actions = np.where(draws, actions, np.clip(driven, low, high))
            observations, _, terminated, truncated, _ = seen.step(actions.astype(np.float32))
            ended = np.logical_or(terminated, truncated)
            levels[ended] = _noise_levels(rng, ended.sum())
            if policy is not None:
                policy.reset(ended)
            bar.update(recorder.count - bar.n)
    finally:
        bar.close()
        env.close()
    parts = (np.concatenate(part) for part in (recorder.depth, recorder.scenes, recorder.views))
    source = f"{config.env}, by={by if policy is not None else 'random'}, {seed=}, {every=}, {noise=}, {env.num_envs=}"
    return Frames.of(*parts, source=source)


def _noise_levels(rng: np.random.Generator, episodes: int) -> NDArray[np.float64]:
    """How much of the largest noise each episode is driven with: a third of it on average, half have less than 1/4."""
    return rng.random(episodes) ** 2
