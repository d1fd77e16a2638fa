"""What a robot remembers of its last seconds, for the day on which something was wrong."""

import math
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_LATENCIES = 10_000  # the newest, which percentiles are of


class Record:
    """The last steps: what came in, what went out, when, and how long it took.

    Args:
        steps: How many.
    """

    def __init__(self, steps: int) -> None:
        self._steps: deque[dict[str, Any]] = deque(maxlen=steps)

    def add(self, **entries: Any) -> None:
        """Adds a step; arrays are copied."""
        self._steps.append({k: v.copy() if isinstance(v, np.ndarray) else v for k, v in entries.items()})

    @property
    def newest(self) -> dict[str, Any]:
        """The last step, by name: the inputs as the graph got them, `action`, `time_s`, `latency_s`."""
        return dict(self._steps[-1])

    def __len__(self) -> int:
        return len(self._steps)

    def write(self, path: str | Path) -> None:
        """Writes the steps, the oldest first, into an .npz file: an array for each name, along the first axis.

        Raises:
            ValueError: Where nothing has been recorded.
        """
        if not self._steps:
            raise ValueError("Nothing has been recorded yet.")
        newest = self._steps[-1]
        same = [s for s in self._steps if all(np.shape(s[name]) == np.shape(newest[name]) for name in newest)]
        columns = {name: np.stack([np.asarray(step[name]) for step in same]) for name in newest}
        with Path(path).open("wb") as file:
            np.savez_compressed(file, allow_pickle=False, **columns)


class Latency:
    """How long steps took.

    Args:
        deadline_s: What a step may take; None for any time.

    Attributes:
        steps: How many there were.
        late: How many of them took longer than the deadline.
    """

    def __init__(self, deadline_s: float | None) -> None:
        self.deadline_s = math.inf if deadline_s is None else deadline_s
        self.steps = self.late = 0
        self._seconds: deque[float] = deque(maxlen=_LATENCIES)

    def add(self, seconds: float) -> bool:
        """Adds a step; says whether it was in time."""
        self.steps += 1
        self._seconds.append(seconds)
        in_time = seconds <= self.deadline_s
        self.late += not in_time
        return in_time

    def summary(self) -> dict[str, float]:
        """Milliseconds at the 50th, 90th and 99th percentile and at the most, of the newest 10000 steps; counts."""
        seconds: NDArray[np.float64] = np.array(self._seconds or [math.nan])
        p50, p90, p99 = np.percentile(seconds, (50, 90, 99)) * 1e3
        return {
            "p50_ms": float(p50),
            "p90_ms": float(p90),
            "p99_ms": float(p99),
            "max_ms": float(seconds.max() * 1e3),
            "steps": self.steps,
            "late": self.late,
        }
