"""Sweeps: which runs a command line asks for, where each stands, and how long the rest will take."""

import dataclasses
import json
import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from defm_rl.experiments.config import GROUPS, Config
from defm_rl.experiments.identity import run_digest, run_name
from defm_rl.experiments.overrides import compose_many
from defm_rl.experiments.runs import Run, to_config
from defm_rl.experiments.status import State, Status, read_status

_logger = logging.getLogger(__name__)

_RESOLVER = "defm_rl.run_name"
_SUBDIR = f"${{{_RESOLVER}:}}"  # of `hydra.sweep.subdir` in conf/config.yaml


def _resolve_run_name(*, _root_: Any) -> str:
    return run_name(to_config(_root_))


OmegaConf.register_new_resolver(_RESOLVER, _resolve_run_name, replace=True)


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: What makes it.
        config: What they make.
        digest: Its identity.
        run: Its folder.
        status: Where it stands; None where it has not begun.
    """

    overrides: list[str]
    config: Config
    digest: str
    run: Run
    status: Status | None

    @property
    def state(self) -> State | None:
        """Where it stands; None where it has not begun."""
        return self.status.state if self.status else None

    @property
    def left(self) -> float:
        """The share of it that is still to do, from 1 to 0."""
        if self.state in (State.FINISHED, State.RUNNING):
            return 0.0
        steps = self.run.state()["steps"] if self.run.has_checkpoint else 0
        return max(1.0 - float(steps) / self.config.algo.total_steps, 0.0)


def plan(jobs: Iterable[Sequence[str]], compose: Callable[[list[str]], DictConfig]) -> Iterator[Job]:
    """Where the runs of a sweep stand.

    Args:
        jobs: The overrides of each.
        compose: Makes of overrides a configuration with Hydra's own part.
    """
    parts: dict[tuple[str, ...], Any] = {}
    for overrides, composed in compose_many(jobs, compose):
        config = _config(overrides, composed, parts)
        digest = run_digest(config)
        sweep = composed.hydra.sweep
        ours = OmegaConf.to_container(sweep, resolve=False)["subdir"] == _SUBDIR  # type: ignore[call-overload,index]
        folder = Path(str(sweep.dir)) / (run_name(config, digest) if ours else str(sweep.subdir))
        status = read_status(folder)
        if status and status.digest not in ("", digest):
            _logger.warning("%s has gone on with other settings since (resume=): it is left as it is.", folder)
            status = dataclasses.replace(status, state=State.FINISHED)
        yield Job(list(overrides), config, digest, Run(folder), status)


def _config(overrides: Sequence[str], composed: DictConfig, parts: dict[tuple[str, ...], Any]) -> Config:
    """As `to_config`, but a group that an earlier run of the sweep had is the one that was made for it."""
    keys = {text: text.lstrip("+~").partition("=")[0] for text in overrides}
    options = [text for text, key in keys.items() if "." not in key and key != "seed"]
    known = {}
    for group in (*GROUPS, "evaluation"):
        key = (group, *options, *(text for text in overrides if keys[text].startswith(f"{group}.")))
        if key not in parts:
            node = composed[group]
            parts[key] = None if "${" in OmegaConf.to_yaml(node) else OmegaConf.to_object(node)
        if parts[key] is not None:
            known[group] = parts[key]
    return to_config(composed, known)


def to_do(jobs: Sequence[Job]) -> list[Job]:
    """The runs that are neither finished nor at it."""
    return [job for job in jobs if job.state not in (State.FINISHED, State.RUNNING)]


def describe(jobs: Sequence[Job], at_a_time: int) -> str:
    """How many runs there are of each kind, and how long the rest will take."""
    counts = Counter(job.state for job in jobs)
    words = {
        State.FINISHED: "finished: skipped",
        State.RUNNING: "at it in other processes: left to them",
        State.INTERRUPTED: "interrupted: resumed",
        State.FAILED: "failed: tried again",
        None: "new",
    }
    said = ", ".join(f"{counts[state]} {words[state]}" for state in words if counts[state])
    lines = [f"{len(jobs)} runs: {said or 'none'}."]
    finished = [job for job in jobs if job.state is State.FINISHED and job.status and job.status.wall_s]
    if finished and to_do(jobs):
        seconds = _seconds_left(jobs, finished)
        spent = sum(job.status.wall_s for job in finished if job.status)
        lines.append(
            f"The finished ones took {_duration(spent)}, {_duration(spent / len(finished))} each; the rest will take "
            f"about {_duration(seconds / at_a_time)}, {at_a_time} at a time."
        )
    return "\n".join(lines)


def _seconds_left(jobs: Sequence[Job], finished: Sequence[Job]) -> float:
    """What the runs to do will take, one after the other: as other seeds of the same took, where there are any."""
    taken: dict[str, list[float]] = {}
    for job in finished:
        assert job.status is not None
        taken.setdefault(_setting(job), []).append(job.status.wall_s)
    everything = [seconds for values in taken.values() for seconds in values]
    return sum(job.left * _mean(taken.get(_setting(job), everything)) for job in to_do(jobs))


def _setting(job: Job) -> str:
    return run_digest(dataclasses.replace(job.config, seed=0))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _duration(seconds: float) -> str:
    """Such as 42 s, 5 min 10 s or 3 h 20 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def figure(run: Run) -> float:
    """What a search maximizes, of a run that is finished: its success rate, else its mean reward."""
    evaluation = json.loads((run.folder / "metrics.json").read_text())["evaluation"]
    return float(evaluation.get("success_rate", evaluation["reward"])["mean"])


def conclude(jobs: Sequence[Job]) -> bool:
    """Says how a sweep ended; whether all of its runs are finished."""
    ended = [(job, read_status(job.run.folder)) for job in jobs]
    for job, status in ended:
        if status and status.state in (State.FAILED, State.INTERRUPTED):
            _logger.warning("%s %s: %s", job.run.folder, status.state, status.reason)
    states = Counter(status.state if status else None for _, status in ended)
    _logger.info("%d of %d runs are finished.", states[State.FINISHED], len(jobs))
    others = {State.FAILED: "failed", State.INTERRUPTED: "interrupted", None: "not begun"}
    said = [f"{states[state]} {word}" for state, word in others.items() if states[state]]
    if said:
        _logger.warning("%s: the same command again goes on with them.", ", ".join(said).capitalize())
    return not said
