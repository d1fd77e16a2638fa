"""What is watched while a policy trains: the bar, the curves, the history, the checkpoints, the clock."""

import contextlib
import logging
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter
from tqdm import tqdm

from defm_rl.experiments import history
from defm_rl.experiments.episodes import Episode, WatchEpisodes, settled
from defm_rl.experiments.quiet import log_once
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tracking import Tracked

_logger = logging.getLogger(__name__)

COLUMNS = ("steps", "seconds", "success_rate", "episode_reward", "episode_steps")  # and the task's own measures
MOST_ROWS = 1000  # of a training's history: off-policy algorithms end a rollout at every step


def progress_bar(iterable: Any = None, **settings: Any) -> Any:
    """A bar that redraws often on a terminal, and seldom in a log file."""
    return tqdm(iterable, mininterval=0.2 if sys.stderr.isatty() else 20.0, **settings)


class Curves:
    """TensorBoard's event files, and a Weights & Biases run where there is one.

    Args:
        folder: For the event files.
        tracked: The run.
        steps: Steps to go on from: what event files hold beyond them is of a process that was killed, and is not shown.
    """

    def __init__(self, folder: Path, tracked: Tracked | None = None, steps: int = 0) -> None:
        self._folder = folder
        self._writer = SummaryWriter(str(folder), purge_step=steps + 1)
        self._tracked = tracked

    @property
    def wandb_id(self) -> str | None:
        """Of the Weights & Biases run, where there is one."""
        return None if self._tracked is None else self._tracked.id

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Adds a point to each figure's curve."""
        try:
            for name, value in figures.items():
                self._writer.add_scalar(name, value, step)
        except OSError as error:  # of the thread that writes, as on a full disk; it has ended
            log_once(f"TensorBoard's files cannot be written ({error}): training goes on.", logging.WARNING)
            with contextlib.suppress(OSError):
                self._writer = SummaryWriter(str(self._folder))
        if self._tracked is not None:
            self._tracked.log(figures, step)

    def conclude(self, figures: Mapping[str, Any], run: Run, *, checkpoint: bool) -> None:
        """Gives the Weights & Biases run an evaluation's figures and film, and the checkpoint if it is to have it."""
        if self._tracked is not None:
            self._tracked.summarize(figures)
            self._tracked.keep(run, checkpoint=checkpoint)

    def close(self) -> None:
        """Writes what is left to write."""
        with contextlib.suppress(OSError):
            self._writer.close()
        if self._tracked is not None:
            self._tracked.finish()


class Progress:
    """Watches a training, whichever library does it: the trainer calls `on_step` and `on_rollout`.

    Args:
        history_file: A CSV file to which rollouts append a row, at most `MOST_ROWS` in a whole training.
        episodes: The environments' account.
        curves: Where the figures of each row go as well.
        total_steps: Steps of the whole training.
        steps: Steps that were done before an interruption.
        seconds_before: Seconds that they took.
        time_limit_s: Ends the training after so many seconds, those before an interruption included. A learning rate
            that falls gets to its end by then.
        save: Writes a checkpoint at a number of steps.
        save_every: Steps between checkpoints.
    """

    def __init__(
        self,
        history_file: Path,
        episodes: WatchEpisodes,
        curves: Curves,
        total_steps: int,
        *,
        steps: int = 0,
        seconds_before: float = 0.0,
        time_limit_s: float | None = None,
        save: Callable[[], None],
        save_every: int,
    ) -> None:
        self.curves, self.total_steps, self.seconds_before = curves, total_steps, seconds_before
        self._history, self._episodes, self._time_limit_s = history_file, episodes, time_limit_s
        self._save, self._save_every, self._next_save = save, save_every, steps + save_every
        self._next_row = 0.0
        self._unwritten: list[dict[str, object]] = []
        self._started = time.perf_counter()
        self._bar = progress_bar(total=total_steps, initial=steps, unit="step", smoothing=0.1)

    @property
    def seconds(self) -> float:
        """Training time so far, interruptions not counted."""
        return self.seconds_before + time.perf_counter() - self._started

    def remaining(self, steps: int) -> float:
        """The share of the training, from 1 to 0, still to come: of its steps, or of its time where that ends first."""
        by_steps = 1.0 - steps / self.total_steps
        by_time = 1.0 if self._time_limit_s is None else 1.0 - self.seconds / self._time_limit_s
        return max(min(by_steps, by_time), 0.0)

    def on_step(self, steps: int) -> bool:
        """Moves the bar; says whether there is time left."""
        self._bar.update(steps - self._bar.n)
        return self._time_limit_s is None or self.seconds < self._time_limit_s

    def on_rollout(self, steps: int) -> None:
        """Writes down how the last episodes went, and a checkpoint where one is due."""
        if steps >= self._next_row or steps >= self.total_steps:
            self._next_row = steps + self.total_steps / MOST_ROWS
            figures = _averages(self._episodes.recent) if self._episodes.recent else {}
            if figures:
                known = "success_rate" in figures
                shown = f"{figures['success_rate']:.0%}" if known else f"{figures['episode_reward']:.3g}"
                self._bar.set_postfix({"success" if known else "reward": shown}, refresh=False)
            self._write({"steps": steps, "seconds": round(self.seconds, 1)}, figures)
            self.curves.log({f"rollout/{name}": value for name, value in figures.items()}, steps)
        if steps >= self._next_save:
            self._next_save = steps + self._save_every
            try:
                self._save()
            except OSError as error:  # as on a full disk: there may be room by the next one, or by the end
                _logger.warning(
                    "No checkpoint at %d steps (%s): the one before is kept, training goes on.", steps, error
                )

    def close(self) -> None:
        """Ends the bar; after an interruption as well."""
        self._bar.close()
        self._write_history()

    def _write(self, when: Mapping[str, float], figures: Mapping[str, float]) -> None:
        row = {**when, **{name: f"{value:.4g}" for name, value in figures.items()}}
        self._unwritten.append({**dict.fromkeys(COLUMNS, ""), **row})
        self._write_history()

    def _write_history(self) -> None:
        """Writes the rows that are not yet written; on a full disk they wait."""
        try:
            while self._unwritten:
                history.append(self._history, self._unwritten[0])
                self._unwritten.pop(0)
        except OSError as error:
            log_once(f"{self._history} cannot be written ({error}): its rows wait.", logging.WARNING)


def _averages(episodes: Sequence[Episode]) -> dict[str, float]:
    """The columns of the history beside steps and seconds."""
    first = episodes[0].measures
    measures = {name: _mean([episode.measures[name] for episode in episodes]) for name in first}
    successes = [episode.success for episode in settled(episodes) if episode.success is not None]
    return {
        **({"success_rate": float(np.mean(successes))} if successes else {}),
        "episode_reward": float(np.mean([episode.reward for episode in episodes])),
        "episode_steps": float(np.mean([episode.steps for episode in episodes])),
        **{f"{name}_rate" if isinstance(first[name], bool) else name: value for name, value in measures.items()},
    }


def _mean(values: Sequence[float]) -> float:
    """The mean of what is not NaN: an episode that has no such figure, as a failure has no time to success."""
    known = [value for value in values if value == value]
    return float(np.mean(known)) if known else float("nan")
