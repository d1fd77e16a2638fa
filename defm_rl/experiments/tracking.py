"""Weights & Biases beside a training: what a run there is called, grouped and given, and that it never ends ours."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Mapping
from typing import Any

from defm_rl.experiments.config import Config, ConfigError
from defm_rl.experiments.identity import run_digest
from defm_rl.experiments.report.arms import encoder_name, task_name
from defm_rl.experiments.runs import Run

_logger = logging.getLogger(__name__)


class Tracked:
    """A run of Weights & Biases. What fails there is said once, and the training goes on without it.

    Args:
        run: What `wandb.init` gave.
    """

    def __init__(self, run: Any) -> None:
        self.id = str(run.id)
        self._run, self._failed = run, False

    def log(self, figures: Mapping[str, float], step: int) -> None:
        """Adds a point to each figure's curve."""
        self._attempt(lambda: self._run.log(dict(figures), step=step))

    def summarize(self, figures: Mapping[str, Any]) -> None:
        """Adds an evaluation's figures to the run's summary."""
        self._attempt(lambda: self._run.summary.update({"evaluation": dict(figures)}))

    def keep(self, run: Run, *, checkpoint: bool) -> None:
        """Adds the film of the evaluation, and the checkpoint as an artifact: `policy-ID`, a version each time."""
        import wandb

        folder, state = run.folder.resolve(), run.state()
        film = folder / "episodes.gif"
        if film.exists():
            self._attempt(
                lambda: self._run.log(
                    {"evaluation/episodes": wandb.Video(str(film), format="gif")}, step=state["steps"]
                )
            )
        if not checkpoint:
            return

        def upload() -> None:
            facts = {"steps": state["steps"], "encoder": state["encoder"]}
            artifact = wandb.Artifact(f"policy-{self.id}", type="model", metadata=facts)
            artifact.add_dir(str(run.checkpoint.resolve()), name="checkpoint")
            for name in ("config.yaml", "metrics.json"):
                artifact.add_file(str(folder / name), name=name)
            self._run.log_artifact(artifact)

        self._attempt(upload)

    def finish(self) -> None:
        """Waits until all is sent, or written where it is offline."""
        self._attempt(self._run.finish)

    def _attempt(self, act: Callable[[], Any]) -> None:
        if self._failed:
            return
        try:
            act()
        except Exception as error:  # of wandb, its protocol or the disk: none of them is worth a training
            self._failed = True
            _logger.warning(
                "Weights & Biases failed (%s: %s): this run goes on without it.", type(error).__name__, error
            )


def start(config: Config, run: Run, former: dict[str, Any] | None, *, rewinds: bool) -> Tracked | None:
    """The run there where one is asked for; that of before, where training goes on.

    Args:
        config: The experiment.
        run: The folder.
        former: The state to go on from.
        rewinds: Whether it is behind what was logged, which then has to be taken back.

    Raises:
        ConfigError: Where nobody is logged in.
    """
    if not config.logger.wandb:
        return None
    import wandb

    begin = functools.partial(_begin, config, run)
    before = former.get("wandb_id") if former else None
    if former is None or before is None or not rewinds:
        return begin(id=before, resume="allow")
    try:
        return begin(resume_from=f"{before}?_step={former['steps']}")
    except wandb.Error as error:  # not every server can
        _logger.warning(
            "Weights & Biases cannot take run %s back to step %d (%s): a new run goes on from there.",
            *(before, former["steps"], error),
        )
        return begin()


def _begin(config: Config, run: Run, **how: Any) -> Tracked:
    import wandb

    logger = config.logger
    settings: dict[str, Any] = {
        "project": logger.project,
        "entity": logger.entity,
        "name": f"{config.experiment}/{run.folder.name}",
        "group": logger.group or group_name(config),
        "tags": tags(config),
        "dir": run.folder.resolve(),  # W&B's process finds relative paths from where it was when it began
        "config": {**dataclasses.asdict(config), "digest": run_digest(config)},
    }
    try:
        mode: Any = logger.mode  # it says itself what it takes
        return Tracked(wandb.init(mode=mode, **settings, **how))
    except wandb.errors.UsageError as error:
        raise ConfigError(f"logger=wandb: {error}. Without an account there is logger.mode=offline.") from error
    except wandb.errors.CommError as error:
        if "resume_from" in how:
            raise
        _logger.warning(
            "Weights & Biases cannot be reached (%s): it is written to %s, and sent by `wandb sync` later.",
            *(error, run.folder / "wandb"),
        )
        return Tracked(wandb.init(mode="offline", **settings, **how))


def group_name(config: Config) -> str:
    """What the runs share that differ only in their seeds: Weights & Biases draws a group as one band."""
    return f"{config.experiment}, {encoder_name(config)}, {run_digest(dataclasses.replace(config, seed=0))}"


def tags(config: Config) -> list[str]:
    """What runs are found by: experiment, task, encoder and algorithm, and those that were asked for."""
    own = (config.experiment, task_name(config), encoder_name(config), config.algo.name)
    return list(dict.fromkeys(tag[:64] for tag in (*own, *config.logger.tags)))  # longer ones are refused
