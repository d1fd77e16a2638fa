"""A gymnasium vector environment behind SB3's interface, in the same process."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.vector import VectorEnv
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvObs, VecEnvStepReturn

from defm_rl.interfaces import check_vector_env


class GymnasiumVecEnv(VecEnv):
    """Adapts a gymnasium `VectorEnv` to SB3's `VecEnv`.

    Observations are copied once as whole arrays; infos are taken apart key by key, and only for environments that have
    the key. The infos of an ended episode are those of its last step (`final_info`, where the environment gives it),
    with `terminal_observation` and `TimeLimit.truncated` as SB3 expects them.

    Args:
        env: A vector environment with same-step autoreset, which is what SB3's algorithms are written for.

    Raises:
        ValueError: Where the environment resets itself otherwise.
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
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> VecEnvObs:
        """Resets all environments, with the seeds and options given since the last reset."""
        if any(options != self._options[0] for options in self._options):
            raise ValueError("A gymnasium vector environment takes one dict of options for all environments.")
        # SB3's seeds and gymnasium's are both consecutive, so that the first one says it all.
        observations, infos = self.env.reset(seed=self._seeds[0], options=self._options[0] or None)
        self.reset_infos = _per_env(infos, self.num_envs)
        self._reset_seeds()
        self._reset_options()
        return _copied(observations)

    def step_async(self, actions: NDArray[Any]) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> VecEnvStepReturn:
        """Steps all environments."""
        observations, rewards, terminated, truncated, vector_infos = self.env.step(self._actions)
        dones = np.logical_or(terminated, truncated)
        final_obs, final_infos = vector_infos.get("final_obs"), vector_infos.get("final_info", {})
        infos = _per_env({k: v for k, v in vector_infos.items() if k not in _FINAL_KEYS}, self.num_envs)
        if dones.any():
            if final_obs is None:
                raise ValueError(f"{self.env} ended an episode without final_obs in its infos.")
            last = _per_env(final_infos, self.num_envs)
            for index in np.flatnonzero(dones):
                # What stands outside final_info may be of the reset, or of a wrapper that knows no final_info.
                self.reset_infos[index] = infos[index]
                infos[index] = {
                    **infos[index],
                    **last[index],
                    "TimeLimit.truncated": bool(truncated[index] and not terminated[index]),
                    "terminal_observation": final_obs[index],
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
        return [None] * self.num_envs if images is None else list(images)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment, or of the vector environment where it has no single ones."""
        base: Any = self.env.unwrapped
        if attr_name == "render_mode":
            values: Sequence[Any] = [self.env.render_mode] * self.num_envs
        elif hasattr(base, "get_attr"):
            values = base.get_attr(attr_name)
        else:
            values = [getattr(base, attr_name)] * self.num_envs
        return [values[index] for index in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Sets an attribute of all environments; of single ones it is not possible."""
        self._refuse_some(indices)
        base: Any = self.env.unwrapped
        if hasattr(base, "set_attr"):
            base.set_attr(attr_name, [value] * self.num_envs)
        else:
            setattr(base, attr_name, value)

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> list[Any]:
        """Calls a method of all environments, or of the vector environment where it has no single ones."""
        self._refuse_some(indices)
        base: Any = self.env.unwrapped
        if hasattr(base, "call"):
            return list(base.call(method_name, *method_args, **method_kwargs))
        return [getattr(base, method_name)(*method_args, **method_kwargs)] * self.num_envs

    def env_is_wrapped(self, wrapper_class: type[Any], indices: VecEnvIndices = None) -> list[bool]:
        """Whether the single environments are wrapped so; False where there are none."""
        from stable_baselines3.common.env_util import is_wrapped

        envs = getattr(self.env.unwrapped, "envs", None)
        return [envs is not None and is_wrapped(envs[index], wrapper_class) for index in self._get_indices(indices)]

    def _refuse_some(self, indices: VecEnvIndices) -> None:
        if len(list(self._get_indices(indices))) < self.num_envs:
            raise NotImplementedError("A gymnasium vector environment is spoken to as a whole: leave out indices=.")


_FINAL_KEYS = ("final_obs", "_final_obs", "final_info", "_final_info")


def _copied(observations: Any) -> VecEnvObs:
    """A copy: a vector environment may write the next observations into the same arrays."""
    if isinstance(observations, dict):
        return {key: value.copy() for key, value in observations.items()}
    copy: NDArray[Any] = observations.copy()
    return copy


def _per_env(infos: dict[str, Any], num_envs: int) -> list[dict[str, Any]]:
    """Takes gymnasium's infos (an array per key, with a mask under `_key`) apart into one dict per environment."""
    result: list[dict[str, Any]] = [{} for _ in range(num_envs)]
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        having = range(num_envs) if mask is None else np.flatnonzero(mask).tolist()
        if isinstance(values, dict):
            values = _per_env(values, num_envs)
        elif isinstance(values, np.ndarray) and values.ndim == 1:
            values = values.tolist()  # Python numbers, as a single environment's info holds
        for index in having:
            result[index][key] = values[index]
    return result
