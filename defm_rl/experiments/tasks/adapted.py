"""What makes the environments of others like ours: depth in metres, vectors, numbered episodes, outcomes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import VectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray
from torch import Tensor

from defm_rl.checking import SUCCESS_KEYS
from defm_rl.depth import MAX_DEPTH_M, DepthFormat, ZBuffer, as_tensor
from defm_rl.envs.core import DRAWN_LAYOUTS
from defm_rl.experiments.config import ConfigError, suggest
from defm_rl.observations import DepthLayout, depth_layouts, leaves
from defm_rl.simulation import LAYOUT_SEED

STATE = "state"  # the key of an observation that is one vector
_FIRST = "defm_rl_first"  # in the options of a reset by hand: tells it from one at an episode's end
_SEEDS = (DRAWN_LAYOUTS[0], 2**32)  # many environments take seeds of 32 bits only


@dataclass(frozen=True)
class Observed:
    """What an environment observes, by key; keys of nested dicts are paths such as "camera/depth".

    Attributes:
        layouts: The depth.
        given: Everything, as the environment has it.
        depth_format: Of the depth; where it is a z-buffer, only its limit counts.
        z_buffer: Its planes, where it is one.
    """

    layouts: Mapping[str, DepthLayout]
    given: Mapping[str, spaces.Space[Any]]
    depth_format: DepthFormat = field(default_factory=DepthFormat)
    z_buffer: ZBuffer | None = None

    @classmethod
    def of(cls, space: spaces.Space[Any], depth_keys: Sequence[str] | None, **kwargs: Any) -> "Observed":
        """What a space observes.

        Args:
            space: Of one observation.
            depth_keys: What is depth; None: what looks like it.
            **kwargs: The other attributes.

        Raises:
            ConfigError: For keys that are not there, or cannot be depth.
        """
        by_key = parts_of(space)
        try:
            layouts = depth_layouts(spaces.Dict(by_key), depth_keys) if depth_keys is not None else _looks_like(by_key)
        except ValueError as error:
            raise ConfigError(f"env.depth_keys: {error}") from error
        observed = cls(layouts, by_key, **kwargs)
        for key in layouts if observed.z_buffer is None else ():
            try:
                observed.depth_format.read(np.zeros((1, 1, 1), by_key[key].dtype), check_values=False)
            except TypeError as error:
                raise ConfigError(f"env.depth_unit: {key!r} is {by_key[key].dtype}: {error}") from error
        return observed

    @cached_property
    def _limit(self) -> DepthFormat:
        """What is a hole of a z-buffer that has become metres."""
        return replace(self.depth_format, unit="m")

    @property
    def sizes(self) -> dict[str, tuple[int, int]]:
        """Height and width of each depth."""
        return {key: layout.size for key, layout in self.layouts.items()}

    @property
    def vectors(self) -> tuple[str, ...]:
        """What becomes a vector."""
        return tuple(key for key, space in self.given.items() if key not in self.layouts and _width(space) is not None)

    def space(self, key: str) -> spaces.Box:
        """What becomes of an observation: depth (frames, H, W) in metres, vectors (k,), both float32."""
        if key in self.layouts:
            layout = self.layouts[key]
            return spaces.Box(0.0, MAX_DEPTH_M, (layout.frames, *layout.size), np.float32)
        space, width = self.given[key], _width(self.given[key])
        assert width is not None
        if isinstance(space, spaces.Box):
            return spaces.Box(space.low.reshape(-1).astype(np.float32), space.high.reshape(-1).astype(np.float32))
        return spaces.Box(0.0, 1.0, (width,), np.float32)

    def entries(self, key: str) -> tuple[str, ...]:
        """Names of the places of a vector."""
        space = self.given[key]
        if isinstance(space, spaces.Discrete):
            return tuple(f"{key} = {space.start + i}" for i in range(int(space.n)))
        return tuple(f"{key}[{i}]" for i in range(_width(space) or 0))

    def convert(self, key: str, batch: Any) -> Any:
        """A batch of what the environment gives as `space` says; arrays become arrays, and tensors tensors."""
        is_array = not isinstance(batch, Tensor)
        if key not in self.layouts:
            space = self.given[key]
            if isinstance(space, spaces.Discrete):
                one_hot = np.eye(int(space.n), dtype=np.float32)
                return (
                    one_hot[np.asarray(batch) - space.start]
                    if is_array
                    else torch.as_tensor(one_hot, device=batch.device)[batch - int(space.start)]
                )
            batch = batch.reshape(len(batch), -1)
            if not is_array:
                return batch.float()  # to look at its values would wait for the device
            if np.isnan(batch).any():
                raise ConfigError(
                    f"The environment gives NaN in {key!r}, which spreads through every network: mend it there, or "
                    "leave it out of algo.observations. `defm-rl check-env` says what else is wrong."
                )
            return batch.astype(np.float32)
        layout = self.layouts[key]
        tensor = as_tensor(batch)
        images = layout.images(tensor)
        if self.z_buffer is not None:
            images = self._limit.metres(self.z_buffer.metres(images))
        else:
            images = self.depth_format.metres(images)
        images = images.reshape(-1, layout.frames, *layout.size)
        return images.numpy() if is_array else images


class NumberedEpisodes(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A single environment whose episodes are numbered by their seeds, which `info["layout_seed"]` tells.

    After a reset by hand it plays the chosen seeds first, then goes on with seeds that it draws. An episode follows
    from its number where the environment draws all that is random from its seed.

    Args:
        env: The environment.
        seeds: To play first, in this order.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], seeds: Sequence[int] = ()) -> None:
        super().__init__(env)
        self._chosen, self._left = list(seeds), list(seeds)
        self._generator = np.random.default_rng()
        self._number = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Begins the next episode; by hand, with `options={FIRST: True}`, begins with the chosen ones again."""
        options = dict(options or {})
        if options.pop(_FIRST, False):
            self._left = list(self._chosen)
        if seed is not None:
            self._generator = np.random.default_rng([seed, 1])
        drawn = int(self._generator.integers(*_SEEDS)) if seed is None else seed
        self._number = self._left.pop(0) if self._left else drawn
        observation, info = self.env.reset(seed=self._number, options=options or None)
        return observation, {**info, LAYOUT_SEED: self._number}

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Steps."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if terminated or truncated:  # only then: to put infos together is most of what a vector environment does
            info = {**info, LAYOUT_SEED: self._number}
        return observation, reward, terminated, truncated, info


class Adapted(VectorWrapper):
    """Environments of others as the tasks of this library are.

    Observations are a flat Dict: depth in metres (frames, H, W), vectors (k,), both float32; tensors stay where they
    are. Actions are a Box from -1 to 1, stretched to the bounds that the environment has, or whatever else it takes.
    The last infos of episodes hold `layout_seed`, `steps`, `failure`, and `success` where the environment knows of it.

    Args:
        env: The environments, with same-step autoreset.
        observed: What they observe.
        observations: The keys to give.
        success_key: Where in the last infos success stands; None: the first of `SUCCESS_KEYS` that is there. Once an
            episode has told of success, those that do not have failed: some environments tell of nothing else.
        measures: Other numbers of the last infos to report.
        layouts: The numbers of the first episodes of environments whose episodes have none: each environment's first
            ones by turns.

    Attributes:
        keys: The keys that are given.

    Raises:
        ConfigError: For an observation that they do not give.
    """

    def __init__(
        self,
        env: VectorEnv[Any, Any, Any],
        observed: Observed,
        observations: Sequence[str],
        success_key: str | None = None,
        measures: Sequence[str] = (),
        layouts: Sequence[int] = (),
    ) -> None:
        super().__init__(env)
        self.keys = tuple(dict.fromkeys(observations))
        for key in self.keys:
            if key not in (*observed.layouts, *observed.vectors):
                known = [*observed.layouts, *observed.vectors]
                raise ConfigError(
                    f"the environment gives no {key!r}.{suggest(key, known)} There is: {', '.join(known)}."
                )
        self._observed = observed
        self._success_keys = SUCCESS_KEYS if success_key is None else (success_key,)
        self._named, self._told = success_key is not None, False  # whether an episode has told of success
        self._measures, self._layouts = tuple(measures), list(layouts)
        self.single_observation_space = spaces.Dict({key: observed.space(key) for key in self.keys})
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self._stretch = stretch(env.single_action_space)
        if self._stretch is not None:
            self.single_action_space = spaces.Box(-1.0, 1.0, env.single_action_space.shape, np.float32)
            self.action_space = batch_space(self.single_action_space, self.num_envs)
        self._steps = np.zeros(self.num_envs, np.int64)
        self._episodes = np.zeros(self.num_envs, np.int64)  # that each environment has begun

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Resets all."""
        numbered = isinstance(self.env.unwrapped, gymnasium.vector.SyncVectorEnv | gymnasium.vector.AsyncVectorEnv)
        if numbered:
            options = {**(options or {}), _FIRST: True}
        elif seed is None and self._layouts:
            seed = self._layouts[0]
        if isinstance(seed, int | np.integer):
            # Environments draw from seeds of 32 bits, and numbers of ours may be larger.
            seed = int(seed) % 2**32
        observations, infos = self.env.reset(seed=seed, options=options)  # type: ignore[arg-type]
        self._steps[:], self._episodes[:] = 0, 0
        return self._seen(observations), infos

    def step(
        self, actions: Any
    ) -> tuple[dict[str, Any], NDArray[Any], NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """Steps; rewards and ends become arrays."""
        observations, rewards, terminated, truncated, infos = self.env.step(self._stretched(actions))
        rewards, terminated, truncated = map(_array, (rewards, terminated, truncated))
        self._steps += 1
        ended = terminated | truncated
        passed: dict[str, Any] = {}
        if ended.any():
            passed = self._last(infos, ended, truncated)
            # Of the episodes that begin: what sensors draw follows these numbers.
            passed |= {key: infos[key] for key in (LAYOUT_SEED, f"_{LAYOUT_SEED}") if key in infos}
            self._steps[ended] = 0
            self._episodes[ended] += 1
        return self._seen(observations), rewards, terminated, truncated, passed

    def _seen(self, observations: Any) -> dict[str, Any]:
        parts = leaves(observations) if isinstance(observations, Mapping) else dict.fromkeys(self.keys, observations)
        return {key: self._observed.convert(key, parts[key]) for key in self.keys}

    def _stretched(self, actions: Any) -> Any:
        if self._stretch is None:
            return actions
        middle, reach = self._stretch
        bounds = self.env.single_action_space
        assert isinstance(bounds, spaces.Box)
        # Within the bounds before and after: rounding may leave them by a hair, which environments refuse.
        if isinstance(actions, Tensor):
            middle_, reach_, low, high = (
                torch.as_tensor(x, device=actions.device) for x in (middle, reach, bounds.low, bounds.high)
            )
            return (middle_ + actions.clamp(-1.0, 1.0) * reach_).clamp(low, high)
        stretched = middle + np.minimum(np.maximum(actions, -1.0), 1.0) * reach
        return np.minimum(np.maximum(stretched, bounds.low), bounds.high)

    def _last(self, infos: Mapping[str, Any], ended: NDArray[np.bool_], truncated: NDArray[np.bool_]) -> dict[str, Any]:
        """The account of the episodes that have ended, and their last observations."""
        info = infos.get("final_info", infos)
        index = np.flatnonzero(ended)
        last: dict[str, Any] = {LAYOUT_SEED: self._numbers(info), "steps": self._steps.copy()}
        success = self._success(info, index)
        if success is None and self._named:
            raise self._missing("env.success_key", self._success_keys[0], info)
        if success is None:
            last["failure"] = np.full(self.num_envs, "")
        else:
            last["success"] = success
            last["failure"] = np.select([success, truncated], ["", "timeout"], "failure")
        for name in self._measures:
            values, has = _found(info, name, self.num_envs)
            if not has[index].all():
                raise self._missing("env.measures", name, info)
            last[name] = values
        passed = {"final_info": last, "_final_info": ended}
        final = infos.get("final_obs", infos.get("final_observation"))
        if final is not None:
            passed["final_obs"] = self._last_observations(final, index)
            passed["_final_obs"] = ended
        return passed

    def _success(self, info: Mapping[str, Any], index: NDArray[np.int64]) -> NDArray[np.bool_] | None:
        """Which episodes have succeeded, (num_envs,); None while none has told."""
        for key in self._success_keys:
            values, has = _found(info, key, self.num_envs)
            if has[index].any():
                self._success_keys, self._told = (key,), True
                return values.astype(bool) & has
        return np.zeros(self.num_envs, bool) if self._told else None

    @staticmethod
    def _missing(setting: str, name: str, info: Mapping[str, Any]) -> ConfigError:
        known = [key for key in info if not key.startswith("_") and key != LAYOUT_SEED]
        return ConfigError(
            f"{setting}: the last infos hold no {name!r}.{suggest(name, known)} There is: {', '.join(known)}."
        )

    def _numbers(self, info: Mapping[str, Any]) -> NDArray[np.int64]:
        if LAYOUT_SEED in info:
            return np.asarray(info[LAYOUT_SEED], np.int64)
        turns = self._episodes * self.num_envs + np.arange(self.num_envs)
        return np.array([self._layouts[k] if k < len(self._layouts) else DRAWN_LAYOUTS[0] + k for k in turns])

    def _last_observations(self, final: Any, index: NDArray[np.int64]) -> NDArray[Any]:
        """One dict an environment whose episode has ended, as gymnasium's own vector environments give them."""
        last = np.full(self.num_envs, None, dtype=object)
        for i in index:
            last[i] = {key: self._observed.convert(key, _row(final, key, i))[0] for key in self.keys}
        return last


def _row(final: Any, key: str, index: int) -> Any:
    """An environment's last observation as a batch of one, out of a batch or of single ones, a dict for each."""
    if isinstance(final, Mapping | Tensor):
        return at(final, key)[index : index + 1]
    value = at(final[index], key)
    return value[None] if isinstance(value, Tensor) else np.asarray(value)[None]


def parts_of(space: spaces.Space[Any]) -> dict[str, spaces.Space[Any]]:
    """The spaces inside a space by their paths; of a single one by "depth" where it is an image, else by "state"."""
    if not isinstance(space, spaces.Dict) and len(space.shape or ()) <= 1:
        return {STATE: space}
    return leaves(space)


def _looks_like(by_key: Mapping[str, spaces.Space[Any]]) -> dict[str, DepthLayout]:
    try:
        return depth_layouts(spaces.Dict(dict(by_key)))
    except ValueError:
        if any(len(space.shape or ()) > 1 and space.dtype != np.uint8 for space in by_key.values()):
            raise  # there is something that could be depth, and it has to be said what it is
        return {}


def at(observations: Any, path: str) -> Any:
    """What stands at a path of `parts_of`."""
    return leaves(observations)[path] if isinstance(observations, Mapping) else observations


def _width(space: spaces.Space[Any]) -> int | None:
    """How long the vector is that a space becomes; None where it becomes none."""
    if isinstance(space, spaces.Discrete):
        return int(space.n)
    if isinstance(space, spaces.MultiBinary) or (isinstance(space, spaces.Box) and len(space.shape) <= 1):
        return int(np.prod(space.shape))
    return None


def stretch(space: spaces.Space[Any]) -> tuple[NDArray[np.floating[Any]], NDArray[np.floating[Any]]] | None:
    """The middle and half the width of the range that actions from -1 to 1 are stretched to; None: they stay."""
    if not isinstance(space, spaces.Box) or not space.is_bounded():
        return None
    return space.low + 0.5 * (space.high - space.low), 0.5 * (space.high - space.low)


def _found(info: Mapping[str, Any], path: str, num_envs: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """Numbers of the last infos, and which environments have them, (num_envs,) each."""
    nowhere = np.zeros(num_envs), np.zeros(num_envs, bool)
    *parents, name = path.split("/") if path not in info else [path]
    for parent in parents:
        if not isinstance(info.get(parent), Mapping):
            return nowhere
        info = info[parent]
    if name not in info:
        return nowhere
    values = _array(info[name])
    if values.dtype == object:
        values = np.array([0 if value is None else value for value in values])
    mask = info.get(f"_{name}")
    return values, np.ones(len(values), bool) if mask is None else _array(mask).astype(bool)


def _array(values: Any) -> NDArray[Any]:
    return values.cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
