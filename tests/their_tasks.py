"""Tasks as others write them: registered by being imported, each with habits of its own."""

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

HEIGHT, WIDTH = 32, 40
ANSWERS = spaces.Box(-2.0, 2.0, (1,), np.float32)


class WhichSide(gym.Env):
    """A box stands on the left or on the right: an action towards it succeeds. Only depth tells where it is."""

    metadata = {"render_modes": ["rgb_array", "depth_array"], "render_fps": 10}
    action_space = ANSWERS
    dt = 0.1

    def __init__(self, render_mode=None, success_key="is_success", steps=3, depth_scale=1.0, nested=False, image=True):
        self.render_mode, self._success_key, self._last_step = render_mode, success_key, steps
        self._scale, self._nested, self._image = depth_scale, nested, image
        state = spaces.Box(-1.0, 1.0, (2,), np.float32)
        depth = spaces.Box(0.0, 10.0 * depth_scale, (HEIGHT, WIDTH, 1), np.float32)
        parts = {"camera": spaces.Dict({"front": depth})} if nested else {"front": depth}
        self.observation_space = spaces.Dict({**(parts if image else {}), "joints": state})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.side = int(self.np_random.integers(2))
        self.steps = 0
        return self._observed(), {}

    def step(self, action):
        assert self.action_space.contains(np.asarray(action, np.float32)), action
        self.steps += 1
        right = float(action[0]) > 0
        done = self.steps >= self._last_step
        info = {self._success_key: bool(done and right == bool(self.side))} if self._success_key else {}
        return self._observed(), float(right == bool(self.side)), done, False, {**info, "seen": self.steps}

    def depth(self):
        depth = np.full((HEIGHT, WIDTH), 5.0, np.float32)
        depth[8:24, self.side * WIDTH // 2 :][:, : WIDTH // 2] = 1.0
        return depth

    def render(self):
        if self.render_mode == "depth_array":
            near, far = 0.1, 20.0
            return (far - near * far / self.depth()) / (far - near)  # as OpenGL keeps it
        return np.repeat((self.depth() * 50).astype(np.uint8)[..., None], 3, axis=2)

    def _observed(self):
        joints = np.float32([0.0, self.steps / 10])
        if not self._image:
            return {"joints": joints}
        depth = self.depth()[..., None] * np.float32(self._scale)
        return {"camera": {"front": depth}, "joints": joints} if self._nested else {"front": depth, "joints": joints}


class Batched(VectorEnv):
    """The same, vectorized by itself."""

    def __init__(self, num_envs, autoreset_mode="SameStep"):
        self.envs_ = [WhichSide() for _ in range(num_envs)]
        self.metadata = {"autoreset_mode": AutoresetMode(autoreset_mode)}
        self.num_envs = num_envs
        self.single_observation_space, self.single_action_space = self.envs_[0].observation_space, ANSWERS
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(ANSWERS, num_envs)

    def reset(self, *, seed=None, options=None):
        return self._batch(
            [env.reset(seed=None if seed is None else seed + i)[0] for i, env in enumerate(self.envs_)]
        ), {}

    def step(self, actions):
        results = [env.step(action) for env, action in zip(self.envs_, actions, strict=True)]
        observations, rewards, terminated, truncated, infos = zip(*results, strict=True)
        ended = np.array(terminated) | np.array(truncated)
        observations, final = list(observations), np.full(self.num_envs, None, object)
        for i in np.flatnonzero(ended):
            final[i], observations[i] = observations[i], self.envs_[i].reset()[0]
        success = np.array([info["is_success"] for info in infos])
        info = {"final_obs": final, "final_info": {"is_success": success, "_is_success": ended}} if ended.any() else {}
        return self._batch(observations), np.array(rewards), np.array(terminated), np.array(truncated), info

    def _batch(self, observations):
        return {key: np.stack([single[key] for single in observations]) for key in observations[0]}


class Counts(WhichSide):
    """The same in integers."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        depth = spaces.Box(0, 65535, (HEIGHT, WIDTH, 1), np.uint16)
        self.observation_space = spaces.Dict({**self.observation_space, "front": depth})

    def _observed(self):
        return {**super()._observed(), "front": (1000 * self.depth()[..., None]).astype(np.uint16)}


class Tensors(VectorEnv):
    """The same as ManiSkill has it: nested tensors, depth in int16 millimetres, and a world in the middle of it.

    After mani_skill 3.0.1's `ManiSkillVectorEnv`: what `unwrapped` gives is no vector environment, rewards and ends are
    tensors, last observations are a batch, and infos have no masks for what stands in them.
    """

    def __init__(self, num_envs, device="cpu", obs_mode="depth"):
        assert obs_mode == "depth"
        self.num_envs, self.device = num_envs, torch.device(device)
        self.worlds = [WhichSide() for _ in range(num_envs)]
        self.metadata = {"autoreset_mode": AutoresetMode.SAME_STEP, "render_modes": ["rgb_array"]}
        depth = spaces.Box(-32768, 32767, (HEIGHT, WIDTH, 1), np.int16)
        self.single_observation_space = spaces.Dict(
            {
                "agent": spaces.Dict({"qpos": spaces.Box(-np.inf, np.inf, (2,), np.float32)}),
                "sensor_param": spaces.Dict(
                    {"base_camera": spaces.Dict({"extrinsic_cv": spaces.Box(-np.inf, np.inf, (3, 4), np.float32)})}
                ),
                "sensor_data": spaces.Dict({"base_camera": spaces.Dict({"depth": depth})}),
            }
        )
        self.single_action_space = ANSWERS
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(ANSWERS, num_envs)

    @property
    def unwrapped(self):
        return self.worlds[0]

    def reset(self, *, seed=None, options=None):
        chosen = range(self.num_envs) if "env_idx" not in (options or {}) else options["env_idx"].tolist()
        for i in chosen:
            self.worlds[i].reset(seed=None if seed is None else seed + i)
        return self._observed(), {"reconfigure": False}

    def step(self, actions):
        actions = torch.as_tensor(actions, device=self.device)
        assert actions.shape == (self.num_envs, 1)
        results = [world.step(action.numpy()) for world, action in zip(self.worlds, actions.cpu(), strict=True)]
        _, rewards, terminated, truncated, single_infos = zip(*results, strict=True)
        terminated, truncated = self._tensor(terminated), self._tensor(truncated)
        infos = {
            "elapsed_steps": self._tensor([world.steps for world in self.worlds]),
            "success": self._tensor([info["is_success"] for info in single_infos]),
        }
        observations, ended = self._observed(), terminated | truncated
        if ended.any():
            last, final_info = observations, infos
            observations, infos = self.reset(options={"env_idx": torch.arange(self.num_envs)[ended.cpu()]})
            infos |= {"final_observation": last, "_final_observation": ended}
            infos |= {"final_info": final_info, "_final_info": ended, "_elapsed_steps": ended}
        return observations, self._tensor(rewards), terminated, truncated, infos

    def _observed(self):
        depth = np.stack([world.depth()[..., None] for world in self.worlds])
        camera = {"depth": self._tensor((1000 * depth).astype(np.int16))}
        joints = np.float32([[0.0, world.steps / 10] for world in self.worlds])
        pose = torch.eye(4, device=self.device)[:3].expand(self.num_envs, 3, 4)
        return {
            "agent": {"qpos": self._tensor(joints)},
            "sensor_param": {"base_camera": {"extrinsic_cv": pose}},
            "sensor_data": {"base_camera": camera},
        }

    def _tensor(self, values):
        return torch.as_tensor(values, device=self.device)


gym.register("their/WhichSide-v0", entry_point=WhichSide, max_episode_steps=20)
gym.register("their/Counts-v0", entry_point=Counts)
gym.register("their/Batched-v0", vector_entry_point=Batched)
gym.register("their/Tensors-v0", vector_entry_point=Tensors)
