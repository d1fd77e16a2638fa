"""From a configuration to a trained, evaluated policy and its folder."""

import contextlib
import logging
import time
from collections.abc import Sequence
from typing import Any

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments import environments, history, tracking
from defm_rl.experiments.config import (
    Config,
    refused_settings,
)
from defm_rl.experiments.episodes import WatchEpisodes
from defm_rl.experiments.evaluation import (
    Options,
    evaluate,
    settle_threads,
    summarize,
    threads_put_back,
    write_episodes,
)
from defm_rl.experiments.identity import run_digest
from defm_rl.experiments.interruption import Interruption
from defm_rl.experiments.peak_memory import peak_memory, watch_peak_memory
from defm_rl.experiments.progress import Curves, Progress
from defm_rl.experiments.provenance import provenance
from defm_rl.experiments.runs import Run, verify_encoder, write_json
from defm_rl.experiments.status import attended
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.trainers import Trainer, make_trainer, training_keys

_logger = logging.getLogger(__name__)


def train(config: Config, run: Run, overrides: Sequence[str], digest: str | None = None) -> dict[str, Any]:
    """Trains, evaluates, and fills the run's folder.

    Args:
        config: The experiment. Where `config.resume` is set, the run's checkpoint is gone on from.
        run: The folder to fill.
        overrides: What made the configuration, to be kept with the run; where it goes on, what is changed since.
        digest: The run's identity, where it is another than the configuration's, whose weights may be settled already.

    Returns:
        The metrics, as they stand in metrics.json.

    Raises:
        ConfigError: Where the run to go on with does not fit.
        AlreadyRunningError: Where another process is at it.
        WeightsUnavailableError: Where the encoder's weights cannot be had.
        KeyboardInterrupt: On Ctrl-C or SIGTERM, after a checkpoint was written if training had begun.
    """
    # Threads, since a sweep's next job is another policy.
    with attended(run, digest or run_digest(config)), threads_put_back():
        return _train(config, run, overrides)


def _train(config: Config, run: Run, overrides: Sequence[str]) -> dict[str, Any]:
    started = time.perf_counter()
    watch_peak_memory()
    task = make_task(config.env)
    task.check(config)
    with refused_settings("env"):
        task.settle(config)
    former = _former(run, overrides) if config.resume else None
    with refused_settings("encoder"):
        encoder = environments.settle_weights(config.encoder, task.depth_size(config.encoder))
    with refused_settings("env"):
        checkpoint, steps = (run.checkpoint, former["steps"]) if former else (None, 0)
        env = task.make_encoded(training_keys(config, checkpoint), config.encoder, encoder, seed=config.seed)
    if former is not None:
        verify_encoder(former, encoder)
    settle_threads(config)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(env.close)
        with refused_settings():
            watched = WatchEpisodes(env)
            changed = [override.partition("=")[0].lstrip("+") for override in overrides] if former else []
            trainer = make_trainer(config, watched, checkpoint, steps, changed)
        run.save_config(config, [*run.overrides(), *overrides] if former else overrides)
        rewinds = history.cut(run.folder / "history.csv", steps) or not (former or {}).get("ended", True)
        curves = Curves(run.folder / "tensorboard", tracking.start(config, run, former, rewinds=rewinds), steps)
        cleanup.callback(curves.close)
        done = _done(config, former) if former else None
        if done:
            _logger.info("%s is trained to its end: %s It is evaluated again.", run.folder, done)
        else:
            _learn(config, run, trainer, watched, encoder, curves, former)
        env.close()
        metrics = _conclude(config, run, trainer, encoder, started)
        curves.conclude(metrics["evaluation"], run, checkpoint=config.logger.checkpoint)
    return metrics


def _conclude(
    config: Config, run: Run, trainer: Trainer, encoder: DepthEncoder | None, started: float
) -> dict[str, Any]:
    """Evaluates the policy, and writes down what came of it all; returns the metrics."""
    # Matplotlib takes a second to import, which a sweep that skips what is finished does without.
    from defm_rl.experiments import animation, plots

    task = make_task(config.env)
    options = Options(config.evaluation.episodes, config.evaluation.first_layout, config.env.num_envs, task.renderer)
    episodes = evaluate(config, trainer.policy, encoder, options)
    write_episodes(run.folder / "episodes.csv", episodes)
    metrics = {
        "evaluation": summarize(episodes),
        "training": {**_training(config, run), **peak_memory(), "total_s": round(time.perf_counter() - started, 1)},
        "made_by": {
            "experiment": config.experiment,
            "encoder": run.state()["encoder"],
            **trainer.origin,
            "sensor": task.sensor,
            "seed": config.seed,
            **provenance(),
        },
    }
    write_json(run.folder / "metrics.json", metrics)
    plots.learning_curves({"": [run]}, run.folder / "learning_curve.png")
    if config.evaluation.clips:
        animation.film(config, trainer.policy, encoder, run.folder / "episodes.gif")
    metrics["training"]["total_s"] = round(time.perf_counter() - started, 1)
    write_json(run.folder / "metrics.json", metrics)
    return metrics


def _former(run: Run, overrides: Sequence[str]) -> dict[str, Any]:
    """The state to go on from, with what is changed since among what was when it went on before."""
    state = run.state()
    resumed = {"steps": state["steps"], "overrides": list(overrides)}
    return {**state, "resumed": [*state.get("resumed", []), resumed]}


def _done(config: Config, former: dict[str, Any]) -> str | None:
    """Why a run has nothing left to learn, and how it gets more; None where it has."""
    steps, seconds, algo = former["steps"], former["seconds"], config.algo
    if steps >= algo.total_steps:
        return f"{steps} of {algo.total_steps} steps are done, algo.total_steps={2 * steps} would add more."
    if algo.time_limit_s is not None and seconds >= algo.time_limit_s:
        return (
            f"its {algo.time_limit_s:g} s are used up after {steps} of {algo.total_steps} steps, "
            f"algo.time_limit_s={2 * seconds:.0f} would add more."
        )
    return None


def _learn(
    config: Config,
    run: Run,
    trainer: Trainer,
    episodes: WatchEpisodes,
    encoder: DepthEncoder | None,
    curves: Curves,
    former: dict[str, Any] | None,
) -> None:
    """Trains to the configured number of steps; leaves a checkpoint at the end, and where it is interrupted."""
    kept = {"wandb_id": curves.wandb_id, "resumed": former["resumed"] if former else []}

    interruption = Interruption()

    def save(*, ended: bool = False) -> None:
        made_by = {"encoder": _describe(config, encoder), **trainer.origin}
        state = {"steps": trainer.steps, "seconds": progress.seconds, "ended": ended, **made_by, **kept}
        with interruption.deferred():
            run.save_checkpoint(trainer.save, state)

    progress = Progress(
        run.folder / "history.csv",
        episodes,
        curves,
        config.algo.total_steps,
        steps=trainer.steps,
        seconds_before=former["seconds"] if former else 0.0,
        time_limit_s=config.algo.time_limit_s,
        save=save,
        save_every=config.checkpoint_every,
    )
    with interruption, contextlib.closing(progress):
        try:
            trainer.learn(config.algo.total_steps, progress)
        except (KeyboardInterrupt, SystemExit):  # the latter is submitit's, where Slurm says that time is nearly up
            _logger.info("\nInterrupted: saving a checkpoint.")
            save(ended=True)
            raise
        save(ended=True)


def _training(config: Config, run: Run) -> dict[str, Any]:
    """How the training went, from its last checkpoint."""
    state = run.state()
    return {
        "steps": state["steps"],
        "seconds": round(state["seconds"], 1),
        "steps_per_second": round(state["steps"] / state["seconds"], 1),
        "time_limit_hit": state["steps"] < config.algo.total_steps,
        "resumed": state.get("resumed", []),
    }


def _describe(config: Config, encoder: DepthEncoder | None) -> dict[str, Any]:
    """Which encoder, for the checkpoint and the metrics."""
    if encoder is None:
        return {"kind": config.encoder.kind, "weights": config.encoder.weights, "sha256": None}
    return {
        "kind": config.encoder.kind,
        "name": config.encoder.name,
        "weights": config.encoder.weights,
        "sha256": encoder.provenance.sha256,
        "revision": encoder.provenance.revision,
    }
