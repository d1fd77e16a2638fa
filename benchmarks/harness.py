"""What the benchmarks share: measuring in turns, saying on what machine, and tables."""

import contextlib
import json
import logging
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from defm_rl.kernels import cpu

RESULTS = Path(__file__).parent / "results"

logger = logging.getLogger("benchmarks")


def in_turns(
    calls: dict[str, Callable[[], object]],
    *,
    budget_s: float = 3.0,
    rounds: tuple[int, int] = (3, 25),
    awake: bool = False,
) -> dict[str, list[float]]:
    """Seconds that each call takes, measured in turns (A B A B ...), so that what disturbs one disturbs all.

    Args:
        calls: What to measure, by name. Each runs once or twice before, to warm up.
        budget_s: Seconds to spend, about.
        rounds: The smallest and largest number of turns.
        awake: Whether each call runs once right before it is measured: what is shorter than a virtual machine takes to
            wake its other cores, milliseconds on some, would else be compared by that.
    """
    for call in calls.values():
        call()
    start = time.perf_counter()
    for call in calls.values():
        _timed(call, awake)
    turns = int(budget_s / (time.perf_counter() - start))
    spent: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(min(max(turns, rounds[0]), rounds[1])):
        for name, call in calls.items():
            spent[name].append(_timed(call, awake))
    return spent


def _timed(call: Callable[[], object], awake: bool) -> float:
    time.sleep(0.02)  # what ran before may have left threads spinning
    if awake:
        _finish(call)
    start = time.perf_counter()
    _finish(call)
    return time.perf_counter() - start


def _finish(call: Callable[[], object]) -> None:
    call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@contextlib.contextmanager
def timed_parts(parts: Sequence[tuple[str, object, str]]) -> Iterator[dict[str, float]]:
    """Adds up the wall time spent in some functions; one that calls another counts for both.

    Args:
        parts: For each a name, and the object and its attribute that is the function.

    Yields:
        Seconds by name.
    """
    spent_s = dict.fromkeys((name for name, _, _ in parts), 0.0)

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent_s[name] += time.perf_counter() - start

        return call

    with contextlib.ExitStack() as stack:
        for name, owner, attribute in parts:
            stack.enter_context(mock.patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        yield spent_s


def median_ms(seconds: Sequence[float]) -> float:
    """The median in milliseconds, to four digits."""
    return float(f"{statistics.median(seconds) * 1e3:.4g}")


def spread(seconds: Sequence[float]) -> float:
    """Half the distance between the quartiles, as a share of the median."""
    if len(seconds) < 4:
        return round((max(seconds) - min(seconds)) / 2 / statistics.median(seconds), 3)
    low, middle, high = statistics.quantiles(seconds, n=4)
    return round((high - low) / 2 / middle, 3)


def machine() -> dict[str, object]:
    """The machine and the versions that figures belong to."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": date.today().isoformat(),
        "cpu": _cpu_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "gpu": gpu,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "C++ kernels": cpu.available(),
    }


def peak_gflops(threads: int) -> float:
    """GFLOP/s of a large float32 matrix product: about the most that this machine's processor gives PyTorch now."""
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    a = torch.rand(1536, 1536)
    seconds = min(in_turns({"matmul": lambda: a @ a}, budget_s=1.0)["matmul"])
    torch.set_num_threads(before)
    return 2 * 1536**3 / seconds / 1e9


def peak_copy_gb_s(device: str) -> float:
    """GB/s that a copy of a large tensor reads and writes on a device, all threads together."""
    a = torch.rand(2**26 if device == "cpu" else 2**28, device=device)
    b = torch.empty_like(a)
    return 2 * a.nbytes / min(in_turns({"copy": lambda: b.copy_(a)}, budget_s=1.0)["copy"]) / 1e9


def write(name: str, rows: Sequence[dict[str, object]], **facts: object) -> None:
    """Writes `results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    content = {"machine": machine(), **facts, "rows": list(rows)}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")


def save(name: str, rows: Sequence[dict[str, object]], **facts: object) -> None:
    """Writes `results/NAME.json` and logs the rows as a table in Markdown."""
    write(name, rows, **facts)
    logger.info("%s\n%s", {**machine(), **facts}, table(rows))


def table(rows: Sequence[dict[str, object]]) -> str:
    """Rows of equal keys as a Markdown table."""
    header = list(rows[0])
    lines = [header, ["---" if isinstance(rows[0][key], str) else "---:" for key in header]]
    lines += [[_cell(row[key]) for key in header] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()
