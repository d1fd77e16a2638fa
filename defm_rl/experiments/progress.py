"""What is watched while a policy trains: the bar, the curves, the checkpoints, the clock."""

import csv
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter
from tqdm import tqdm

WINDOW = 200  # episodes that the running success rate looks back on
COLUMNS = ("steps", "seconds", "success_rate", "collision_rate", "episode_reward", "episode_steps")


def progress_bar(iterable: Any = None, **settings: Any) -> Any:
    """A bar that redraws often on a terminal, and seldom in a log file."""
    return tqdm(iterable, mininterval=0.2 if sys.stderr.isatty() else 20.0, **settings)


class Progress(BaseCallback):
    """A bar with success rate and steps/s, and a row of `history.csv` after each rollout.

    Args:
        history: The file the rows are appended to.
        total_steps: Steps of the whole training.
        seconds_before: Training time of the part that was done before an interruption.
    """

    def __init__(self, history: Path, total_steps: int, seconds_before: float = 0.0) -> None:
        super().__init__()
        self.history, self.total_steps, self.seconds_before = history, total_steps, seconds_before
        self.episodes: deque[tuple[bool, bool, float, int]] = deque(maxlen=WINDOW)
        self._started = time.perf_counter()
        self._bar: Any = None

    @property
    def seconds(self) -> float:
        """Training time so far, interruptions not counted."""
        return self.seconds_before + time.perf_counter() - self._started

    def _on_training_start(self) -> None:
        self._started = time.perf_counter()
        self._rewards = np.zeros(self.training_env.num_envs)
        self._lengths = np.zeros(self.training_env.num_envs, int)
        self._bar = progress_bar(total=self.total_steps, initial=self.num_timesteps, unit="step", smoothing=0.1)
        if not self.history.exists():
            self._write(COLUMNS)

    def _on_step(self) -> bool:
        self._bar.update(self.num_timesteps - self._bar.n)
        self._rewards += self.locals["rewards"]
        self._lengths += 1
        for index in np.flatnonzero(self.locals["dones"]):
            info: dict[str, Any] = self.locals["infos"][index]
            self.episodes.append(
                (info["success"], info["collision"], float(self._rewards[index]), int(self._lengths[index]))
            )
            self._rewards[index], self._lengths[index] = 0.0, 0
        return True

    def _on_rollout_end(self) -> None:
        if not self.episodes:
            return
        success, collision, reward, length = np.mean(np.asarray(self.episodes, float), axis=0)
        self._bar.set_postfix(success=f"{success:.0%}", refresh=False)
        figures = (self.num_timesteps, round(self.seconds, 1), success, collision, reward, length)
        self._write(f"{value:.4g}" if isinstance(value, np.floating) else value for value in figures)
        for name, value in zip(COLUMNS[2:], figures[2:], strict=True):
            self.logger.record(f"rollout/{name}", float(value))

    def _on_training_end(self) -> None:
        self.close()

    def close(self) -> None:
        """Ends the bar; after an interruption as well."""
        if self._bar is not None:
            self._bar.close()

    def _write(self, row: Any) -> None:
        with self.history.open("a", newline="") as file:
            csv.writer(file).writerow(row)


class Checkpoints(BaseCallback):
    """Calls `save` every so many environment steps."""

    def __init__(self, save: Callable[[], None], every: int) -> None:
        super().__init__()
        self.save, self.every = save, every

    def _on_training_start(self) -> None:
        self._next = self.num_timesteps + self.every

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if self.num_timesteps >= self._next:
            self.save()
            self._next = self.num_timesteps + self.every


class LinearSchedule:
    """A learning rate that falls linearly from `start` to `start * final_share`.

    Attributes:
        remaining_in_time: The share of the training's time, from 1 to 0, that is still to come; it counts where it is
            less than that of the steps.
    """

    def __init__(self, start: float, final_share: float) -> None:
        self.start, self.final_share = start, final_share
        self.remaining_in_time = 1.0

    def __call__(self, remaining: float) -> float:
        """The rate where `remaining` of the training's steps, from 1 to 0, is still to come."""
        remaining = min(remaining, max(self.remaining_in_time, 0.0))
        return self.start * (self.final_share + (1.0 - self.final_share) * remaining)


class TimeLimit(BaseCallback):
    """Ends the training after so many seconds; a learning rate that falls gets to its end by then."""

    def __init__(self, progress: Progress, limit_s: float, schedule: LinearSchedule) -> None:
        super().__init__()
        self.progress, self.limit_s, self.schedule = progress, limit_s, schedule

    def _on_step(self) -> bool:
        return self.progress.seconds < self.limit_s

    def _on_rollout_end(self) -> None:
        self.schedule.remaining_in_time = 1.0 - self.progress.seconds / self.limit_s


class WandbWriter(KVWriter):
    """Sends what Stable-Baselines3 logs to a Weights & Biases run."""

    def __init__(self, run: Any) -> None:
        self.run = run

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Logs the numbers of one step."""
        self.run.log({key: value for key, value in key_values.items() if isinstance(value, int | float)}, step=step)

    def close(self) -> None:
        """Leaves the run open: its owner finishes it with a summary."""
