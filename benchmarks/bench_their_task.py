"""What `env=gymnasium` adds to a step of somebody else's task, against the same by hand around a SyncVectorEnv.

By hand: the vector environment's step, the actions stretched to its bounds, its depth and the last frames of the
episodes that have ended encoded in one batch to float16, its vector made float32, success and failure read of each
episode. The task itself does next to nothing, so that what is added shows: physics and rendering make its share
smaller. One thread, so that its processor time, which other processes change little, can be compared beside wall time.
"""

import argparse
import os
import statistics
import time

import gymnasium
import harness
import numpy as np
import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from defm_rl import DepthEncoder
from defm_rl.experiments.config import EncoderConfig, GymnasiumEnvConfig
from defm_rl.experiments.tasks import make_task

STEPS = 25  # in a call that is timed
EPISODE = 50


class Task(gymnasium.Env):
    """Shows one of some frames."""

    action_space = spaces.Box(-2.0, 2.0, (3,), np.float32)

    def __init__(self, size=(48, 64)):
        self.observation_space = spaces.Dict(
            {"depth": spaces.Box(0.0, 10.0, tuple(size), np.float32), "joints": spaces.Box(-3.0, 3.0, (8,), np.float64)}
        )
        self._frames = np.random.default_rng(0).uniform(0.5, 8.0, (16, *size)).astype(np.float32)
        self._joints, self._step = np.zeros(8), 0

    def reset(self, *, seed=None, options=None):
        """Begins somewhere in an episode, so that they do not end together."""
        super().reset(seed=seed)
        self._step = int(self.np_random.integers(EPISODE))
        return {"depth": self._frames[0], "joints": self._joints}, {}

    def step(self, action):
        """Shows the next frame."""
        self._step += 1
        observation = {"depth": self._frames[self._step % 16], "joints": self._joints}
        return observation, 0.0, self._step >= EPISODE, False, {"is_success": self._step >= EPISODE}


gymnasium.register("bench/Theirs-v0", entry_point=Task)


class ByHand:
    """What somebody would write."""

    def __init__(self, env, encoder):
        self.env, self.encoder = env, encoder
        self.low, self.range = Task.action_space.low, Task.action_space.high - Task.action_space.low
        self.env.reset(seed=0)

    def step(self, action):
        """Steps, encodes, and reads success."""
        observation, reward, terminated, truncated, info = self.env.step(self.low + (action + 1) / 2 * self.range)
        depth = observation["depth"]
        ended = np.flatnonzero(terminated | truncated)
        if len(ended):
            info["success"] = info["final_info"]["is_success"]
            info["failure"] = np.where(info["success"], "", "failure")
            depth = np.concatenate([depth, [info["final_obs"][index]["depth"] for index in ended]])
        seen = depth if self.encoder is None else self.encoder.encode(torch.from_numpy(depth)).half().numpy()
        num_envs = self.env.num_envs
        for row, index in enumerate(ended):
            last = info["final_obs"][index]
            info["final_obs"][index] = {"depth": seen[num_envs + row], "joints": last["joints"].astype(np.float32)}
        joints = observation["joints"].astype(np.float32)
        return {"depth": seen[:num_envs], "joints": joints}, reward, terminated, truncated, info


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-envs", type=int, nargs="+", default=(8, 64))
    parser.add_argument("--encoder", default="defm_regnet_y_400mf")
    parser.add_argument("--budget", type=float, default=30.0, help="seconds for each row")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"load average {os.getloadavg()[0]:.1f}; {harness.machine()}")
    for num_envs in options.num_envs:
        for name in (options.encoder, None):
            compare(num_envs, name, options.budget)


def compare(num_envs, name, budget_s):
    settings = EncoderConfig(kind="defm" if name else "cnn", name=name or "", weights="random", features=["P3"])
    encoder = None
    if name:
        encoder = DepthEncoder(name, weights="random", features=["P3"], image_size=(48, 64))
    makers = [lambda: gymnasium.make("bench/Theirs-v0")] * num_envs
    hand = ByHand(SyncVectorEnv(makers, autoreset_mode=AutoresetMode.SAME_STEP), encoder)
    task = make_task(GymnasiumEnvConfig(id="bench/Theirs-v0", num_envs=num_envs))
    settings.cameras = ["depth"]
    ours = task.make_encoded(("depth", "joints"), settings, encoder)
    ours.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (STEPS, num_envs, 3)).astype(np.float32)

    def steps(env):
        for action in actions:
            env.step(action)

    spent: dict[str, list[tuple[float, float]]] = {"by hand": [], "env=gymnasium": []}

    def timed(kind, env):
        wall_s, cpu_s = time.perf_counter(), time.process_time()
        steps(env)
        spent[kind].append((time.perf_counter() - wall_s, time.process_time() - cpu_s))

    steps(hand)
    steps(ours)
    until = time.monotonic() + budget_s
    while time.monotonic() < until:
        timed("by hand", hand)
        timed("env=gymnasium", ours)
    print(f"{num_envs} environments, {name or 'no encoder'}, medians of {len(spent['by hand'])} turns (A B A B ...)")
    for index, clock in enumerate(("wall time", "processor time")):
        by_hand, here = (statistics.median(turn[index] for turn in turns) / STEPS for turns in spent.values())
        # Turn by turn: what slows the machine down slows both of a turn.
        ratio = statistics.median(b[index] / a[index] for a, b in zip(*spent.values(), strict=True))
        print(
            f"  {clock:15} by hand {by_hand * 1e3:8.3f} ms a step, env=gymnasium {here * 1e3:8.3f} ms: "
            f"{(here - by_hand) * 1e6 / num_envs:+6.1f} us an environment, {ratio - 1:+.1%}"
        )
    ours.close()


if __name__ == "__main__":
    main()
