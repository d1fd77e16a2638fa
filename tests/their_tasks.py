"""Tasks as others write them: registered by being imported, each with habits of its own."""

import gymnasium as gym
import numpy as np
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


gym.register("their/WhichSide-v0", entry_point=WhichSide, max_episode_steps=20)
gym.register("their/Counts-v0", entry_point=Counts)
gym.register("their/Batched-v0", vector_entry_point=Batched)
