"""A gymnasium vector environment behind SB3's interface, in the same process."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn
from torch import Tensor

from defm_rl.interfaces import check_vector_env
from defm_rl.observations import as_array, leaves

_logger = logging.getLogger(__name__)

_FINAL_OBS = ("final_obs", "final_observation")
_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class GymnasiumVecEnv(VecEnv):
    """Adapts a gymnasium `VectorEnv` to SB3's `VecEnv`.

    Observations are copied once as whole arrays; infos are taken apart key by key, and only for environments that have
    the key. The infos of an ended episode are those of its last step (`final_info`, where the environment gives it),
    with `terminal_observation` and `TimeLimit.truncated` as SB3 expects them. What an info holds one entry of for each
    environment is dealt out, and anything else stands in the infos of all.

    SB3 knows no dicts within dicts: their parts become keys such as "sensor_data/base_camera/depth". Where the
    environment gives tensors, SB3 is given arrays, and the environment is given its actions as tensors.

    Args:
        env: A vector environment with same-step autoreset, which is what SB3's algorithms are written for.

    Raises:
        TypeError: Where it is no vector environment.
        ValueError: Where the environment resets itself otherwise, or observes what SB3 does not take.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]) -> None:
        check_vector_env(
            env,
            "GymnasiumVecEnv",
            instead="It needs no adapter: use it as it is, with the wrappers of defm_rl.sb3 around it.",
            same_step=True,
        )
        self.env = env
        self._actions: Any = None
        self._device: torch.device | None = None  # of the environment's tensors, where it gives tensors
        self._warned: set[str] = set()
        super().__init__(env.num_envs, _flat_space(env.single_observation_space), env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Resets all environments, with the seeds and options given since the last reset."""
        if any(options != self._options[0] for options in self._options):
            raise ValueError("A gymnasium vector environment takes one dict of options for all environments.")
        # SB3's seeds and gymnasium's are both consecutive, so that the first one says it all.
        observations, infos = self.env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self.reset_infos = _per_env(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        part = next(iter(leaves(observations).values()))
        self._device = part.device if isinstance(part, Tensor) else None
        return _copied(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions if self._device is None else torch.as_tensor(actions, device=self._device)

    def step_wait(self) -> VecEnvStepReturn:
        """Steps all environments."""
        observations, rewards, terminated, truncated, vector_infos = self.env.step(self._actions)
        rewards, terminated, truncated = as_array(rewards), as_array(terminated), as_array(truncated)
        dones = np.logical_or(terminated, truncated)
        final_obs = next((vector_infos[key] for key in _FINAL_OBS if key in vector_infos), None)
        infos = _per_env(
            {k: v for k, v in vector_infos.items() if str(k).removeprefix("_") not in _FINAL_OBS}, self.num_envs
        )
        last = [info.pop("final_info", None) for info in infos]
        for index in np.flatnonzero(dones).tolist():
            terminal = None if final_obs is None else _row(final_obs, index)
            if terminal is None:
                raise ValueError(f"{self.env} ended an episode without final_obs in its infos.")
            # What stands outside final_info may be of the reset, or of a wrapper that knows no final_info.
            self.reset_infos[index] = infos[index]
            infos[index] = {
                **infos[index],
                **(last[index] if isinstance(last[index], Mapping) else {}),
                "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
                "terminal_observation": _copied(terminal),
            }
        for info in infos:
            info.setdefault("TimeLimit.truncated", False)
        return _copied(observations), rewards.astype(np.float32), dones, infos

    def close(self) -> None:
        """Closes the environments."""
        self.env.close()

    def get_images(self) -> Sequence[NDArray[Any] | None]:
        """Images of the environments, where `render_mode` is "rgb_array"."""
        images: Any = self.env.render()
        return [None] * self.num_envs if images is None else list(as_array(images))

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment; where there are no single ones, each one's entry or what holds for all."""
        chosen = self._get_indices(indices)
        base: Any = self.env.unwrapped
        if attr_name == "render_mode":
            return [self.env.render_mode for _ in chosen]
        if isinstance(base, SyncVectorEnv):
            return [base.envs[index].get_wrapper_attr(attr_name) for index in chosen]
        values = _ask_processes(base, attr_name) if isinstance(base, AsyncVectorEnv) else self._own(attr_name)
        return [self._entry(values, index) for index in chosen]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of the environments; where there are no single ones, their entries or what holds for all.

        Raises:
            NotImplementedError: Where some environments are named, and the attribute has no entry for each.
        """
        chosen = list(self._get_indices(indices))
        base: Any = self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            for index in chosen:
                base.envs[index].set_wrapper_attr(attr_name, value)
        elif isinstance(base, AsyncVectorEnv):
            values = [value] * self.num_envs
            if len(chosen) < self.num_envs:
                values = list(_ask_processes(base, attr_name))
            for index in chosen:
                values[index] = value
            base.set_attr(attr_name, values)
        elif len(chosen) == self.num_envs:
            setattr(self._owner(attr_name), attr_name, value)
        else:
            values = self._own(attr_name)
            if not _is_for_each(values, self.num_envs) or isinstance(values, tuple):
                raise NotImplementedError(
                    f"{base} has one {attr_name!r} for all of its environments: leave out indices=."
                )
            for index in chosen:
                values[index] = value

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of the environments.

        Where there are no single ones, it is called once for all. An answer with one entry for each environment is
        dealt out; any other, and one that is as long as an argument and hence about the arguments, is everyone's.
        `AsyncVectorEnv` calls it in all of its environments even where some are named.
        """
        chosen = self._get_indices(indices)
        base: Any = self.env.unwrapped
        if isinstance(base, SyncVectorEnv):
            methods = [base.envs[index].get_wrapper_attr(method_name) for index in chosen]
            return [method(*method_args, **method_kwargs) for method in methods]
        if isinstance(base, AsyncVectorEnv):
            if len(list(chosen)) < self.num_envs and method_name not in self._warned:
                self._warned.add(method_name)
                _logger.warning("AsyncVectorEnv calls %s() in all environments, not in those named only.", method_name)
            answers = _ask_processes(base, method_name, *method_args, **method_kwargs)
            return [answers[index] for index in chosen]
        if hasattr(base, "call"):
            answer = base.call(method_name, *method_args, **method_kwargs)
        else:
            answer = self._own(method_name)(*method_args, **method_kwargs)
        arguments = (*method_args, *method_kwargs.values())
        if any(_is_for_each(argument, self.num_envs) for argument in arguments):
            return [as_array(answer) for _ in chosen]
        return [self._entry(answer, index) for index in chosen]

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Whether the single environments are wrapped so; False where there are none."""
        from stable_baselines3.common.env_util import is_wrapped

        envs = getattr(self.env.unwrapped, "envs", None)
        return [envs is not None and is_wrapped(envs[index], wrapper_class) for index in self._get_indices(indices)]

    def _owner(self, name: str) -> Any:
        """The outermost of the vector wrappers that has this attribute; the vector environment where none has it."""
        env: Any = self.env
        while isinstance(env, VectorWrapper) and not hasattr(env, name):
            env = env.env
        return env if hasattr(env, name) else self.env.unwrapped

    def _own(self, name: str) -> Any:
        return getattr(self._owner(name), name)

    def _entry(self, values: Any, index: int) -> Any:
        return as_array(values[index]) if _is_for_each(values, self.num_envs) else as_array(values)


def _ask_processes(env: AsyncVectorEnv, name: str, *args: Any, **kwargs: Any) -> tuple[Any, ...]:
    """What the environments answer; a process that is asked for what it does not have would shut all of them down."""
    if not all(env.call("has_wrapper_attr", name)):
        raise AttributeError(f"The environments of {env} have no attribute {name!r}.")
    return env.call(name, *args, **kwargs)


def _flat_space(space: spaces.Space[Any]) -> spaces.Space[Any]:
    """The space with the parts of nested dicts by path.

    Raises:
        ValueError: Where SB3 does not take a part.
    """
    parts = leaves(space)
    for path, part in parts.items():
        if not isinstance(part, _SPACES):
            names = ", ".join(each.__name__ for each in _SPACES)
            raise ValueError(f"SB3 takes observations of {names} and dicts of them, but {path!r} is {part}.")
    return spaces.Dict(list(parts.items())) if isinstance(space, spaces.Dict) else space


def _copied(observations: Any) -> Any:
    """A copy as arrays by path: a vector environment may write the next observations into the same arrays."""
    arrays = {path: np.array(as_array(x)) for path, x in leaves(observations).items()}
    return arrays if isinstance(observations, Mapping) else arrays.popitem()[1]


def _row(tree: Any, index: int) -> Any:
    """One environment's part of a batch, or of one entry per environment."""
    return {key: _row(part, index) for key, part in tree.items()} if isinstance(tree, Mapping) else tree[index]


def _is_for_each(values: Any, num_envs: int) -> bool:
    """Whether there is one entry for each environment."""
    if isinstance(values, np.ndarray | Tensor):
        return values.ndim > 0 and len(values) == num_envs
    return isinstance(values, list | tuple) and len(values) == num_envs


def _per_env(infos: Mapping[Any, Any], num_envs: int) -> list[dict[Any, Any]]:
    """Takes gymnasium's infos (an array per key, with a mask under `_key`) apart into one dict per environment."""
    result: list[dict[Any, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        if isinstance(key, str) and key.startswith("_") and key[1:] in infos and _is_mask(values, num_envs):
            continue
        mask = infos.get(f"_{key}")
        having = np.flatnonzero(as_array(mask)).tolist() if _is_mask(mask, num_envs) else range(num_envs)
        entries: Any = as_array(values)
        if isinstance(entries, Mapping):
            entries = _per_env(entries, num_envs)
        elif isinstance(entries, np.ndarray) and (entries.ndim == 0 or entries.shape == (num_envs,)):
            entries = entries.tolist()  # Python numbers, as a single environment's info holds
        for_each = _is_for_each(entries, num_envs)
        for index in having:
            result[index][key] = entries[index] if for_each else entries
    return result


def _is_mask(values: Any, num_envs: int) -> bool:
    return _is_for_each(values, num_envs) and getattr(values, "dtype", None) in (np.bool_, torch.bool)
