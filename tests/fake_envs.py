"""Tiny environments with a depth camera, for tests of adapters."""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.vec_env import DummyVecEnv

ENCODER = {"encoder": "defm_regnet_y_400mf", "weights": "random"}
PPO_SETTINGS = {"n_steps": 4, "batch_size": 8, "n_epochs": 1, "device": "cpu", "seed": 0}
REPLAY_SETTINGS = {
    "learning_starts": 4,
    "batch_size": 4,
    "buffer_size": 20,
    "train_freq": 4,
    "device": "cpu",
    "seed": 0,
}
IMAGE = (32, 32)


class DepthEnv(gym.Env[Any, Any]):
    """Random depth images up to 5 m; moving right is rewarded.

    Args:
        episode_steps: Steps after which the episode ends.
        ends: How: by "truncated", "terminated", or both.
        discrete: Whether actions are discrete.
        box: Whether the observation is the depth alone.
        cameras: Keys of the depth cameras.
        millimetres: Whether depth is uint16 millimetres.
        shape: Shape of the depth.
        discrete_key: Whether there is a discrete key among the observations.
        nested: Whether depth lies in dicts within dicts, under {"sensor_data": {camera: {"depth": ...}}}.
    """

    def __init__(
        self,
        episode_steps: int = 5,
        ends: tuple[str, ...] = ("truncated",),
        discrete: bool = False,
        box: bool = False,
        cameras: tuple[str, ...] = ("depth",),
        millimetres: bool = False,
        shape: tuple[int, ...] = (1, *IMAGE),
        discrete_key: bool = False,
        nested: bool = False,
    ) -> None:
        self.episode_steps, self.ends = episode_steps, ends
        self.box, self.cameras, self.millimetres = box, cameras, millimetres
        depth = spaces.Box(0, 65535, shape, np.uint16) if millimetres else spaces.Box(0.0, 100.0, shape, np.float32)
        self.nested, self.depth_space = nested, depth
        keys: dict[str, spaces.Space[Any]] = dict.fromkeys(cameras, depth)
        if nested:
            keys = {"sensor_data": spaces.Dict({camera: spaces.Dict({"depth": depth}) for camera in cameras})}
        keys["state"] = spaces.Box(-1.0, 1.0, (3,), np.float32)
        if discrete_key:
            keys["gait"] = spaces.Discrete(4)
        self.observation_space = depth if box else spaces.Dict(keys)
        self.action_space = spaces.Discrete(2) if discrete else spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.steps = 0
        return self._observe(), {"layout": float(self.np_random.random()), **(options or {})}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        ended = self.steps >= self.episode_steps
        info = {"success": True, "spl": 0.5} if ended else {"steps": self.steps}
        reward = float(np.asarray(action).mean())
        return self._observe(), reward, ended and "terminated" in self.ends, ended and "truncated" in self.ends, info

    def _observe(self) -> Any:
        depth = {}
        for camera in self.cameras:
            metres = self.np_random.uniform(0.5, 5.0, self.depth_space.shape)
            depth[camera] = (metres * 1000 if self.millimetres else metres).astype(self.depth_space.dtype)
        if self.box:
            return depth["depth"]
        rest = {"state": self.np_random.uniform(-1, 1, 3).astype(np.float32)}
        if "gait" in self.observation_space.spaces:
            rest["gait"] = np.int64(self.np_random.integers(4))
        if self.nested:
            return {"sensor_data": {camera: {"depth": image} for camera, image in depth.items()}, **rest}
        return {**depth, **rest}


class DeviceTensor(torch.Tensor):
    """A tensor that NumPy cannot read, as one on a GPU."""

    def __array__(self, *args: Any, **kwargs: Any) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to the host.")

    def numpy(self, *, force: bool = False) -> Any:
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to the host.")

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor).clone()


def on_device(value: Any) -> Any:
    """Arrays of numbers, in dicts too, as `DeviceTensor`; anything else as it is."""
    if isinstance(value, dict):
        return {key: on_device(each) for key, each in value.items()}
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.from_numpy(value.copy()).as_subclass(DeviceTensor)
    return value


class TensorVectorEnv(VectorWrapper):
    """A vector environment on a GPU: tensors instead of arrays, of actions too, and `env_idx` among a reset's options.

    Args:
        env: With arrays.
        batch: Whether the last observations of episodes are one batch with a mask, under `final_observation`; otherwise
            there is an array of single ones under `final_obs`, as gymnasium has it.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any], batch: bool = True) -> None:
        super().__init__(env)
        self.batch = batch

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if options and "env_idx" in options:
            mask = np.zeros(self.num_envs, bool)
            mask[options["env_idx"].tolist()] = True
            options = {"reset_mask": mask}
        elif options and "reset_mask" in options:
            options = {"reset_mask": options["reset_mask"].numpy()}
        observations, infos = self.env.reset(seed=seed, options=options)
        return on_device(observations), on_device(infos)

    def step(self, actions: Any) -> Any:
        assert isinstance(actions, torch.Tensor)
        observations, rewards, terminated, truncated, infos = self.env.step(actions.cpu().numpy())
        if "final_obs" in infos and not self.batch:
            for i, last in enumerate(infos["final_obs"]):
                infos["final_obs"][i] = on_device(last)
        elif "final_obs" in infos:
            last, mask = infos.pop("final_obs"), infos.pop("_final_obs")
            batch = _stacked([last[i] if mask[i] else _row(observations, i) for i in range(self.num_envs)])
            infos |= {"final_observation": batch, "_final_observation": mask}
        return tuple(on_device(value) for value in (observations, rewards, terminated, truncated, infos))


def _row(tree: Any, index: int) -> Any:
    return {key: _row(part, index) for key, part in tree.items()} if isinstance(tree, dict) else tree[index]


def _stacked(trees: list[Any]) -> Any:
    if isinstance(trees[0], dict):
        return {key: _stacked([tree[key] for tree in trees]) for key in trees[0]}
    return np.stack(trees)


class NumberedEnv(DepthEnv):
    """Plays these layouts, then layout 0; depth, and how long an episode lasts, follow the layout's number alone."""

    def __init__(self, layouts: Sequence[int]) -> None:
        super().__init__()
        self.layouts = list(layouts)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        layout = self.layouts.pop(0) if self.layouts else 0
        self.episode_steps = 3 + layout % 4
        return super().reset(seed=layout)[0], {"layout_seed": layout}


def vec_env(num_envs: int = 2, seed: int | None = 0, **kwargs: Any) -> DummyVecEnv:
    env = DummyVecEnv([lambda: DepthEnv(**kwargs)] * num_envs)
    env.seed(seed)
    return env


def vector_env(
    num_envs: int = 2, mode: AutoresetMode = AutoresetMode.SAME_STEP, copy: bool = True, **kwargs: Any
) -> VectorEnv[Any, Any, Any]:
    return SyncVectorEnv([lambda: DepthEnv(**kwargs)] * num_envs, autoreset_mode=mode, copy=copy)
