"""A run's model card: what the Hub shows of it, filled in from its files."""

import json
import math
from collections.abc import Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from defm_rl.encoders.weights import REPOSITORY
from defm_rl.experiments.config import Config
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import make_task
from defm_rl.experiments.templates import template


def write_card(run: Run, repository: str, license_name: str | None, trust: Sequence[str]) -> None:
    """Writes README.md into a run's folder.

    Args:
        run: The run, as it is shared.
        repository: Where it will be.
        license_name: Of the policy, as the Hub writes it.
        trust: The settings for which `trust=true` will be needed.
    """
    config, metrics = run.config(), json.loads((run.folder / "metrics.json").read_text())
    encoder = metrics["made_by"]["encoder"]
    task = make_task(config.env)
    figures = _figures(metrics["evaluation"])
    card = template("defm_rl.experiments", "card.md.jinja", figure=_figure, thousands="{:,}".format)
    body = card.render(
        name=repository.partition("/")[2],
        repository=repository,
        config=config,
        task=task,
        metrics=metrics,
        figures=figures,
        encoder=encoder,
        random=encoder["kind"] == "defm" and encoder["weights"] == "random",
        trust=trust,
        has={name: (run.folder / name).exists() for name in ("episodes.gif", "learning_curve.png")},
        state=run.state(),
    )
    data = _front_matter(config, repository, task.name, figures, encoder, license_name)
    (run.folder / "README.md").write_text(f"---\n{data.to_yaml()}\n---\n\n{body}", encoding="utf-8")


def _front_matter(
    config: Config,
    repository: str,
    task: str,
    figures: dict[str, dict[str, Any]],
    encoder: dict[str, Any],
    license_name: str | None,
) -> ModelCardData:
    published = encoder["kind"] == "defm" and encoder["weights"] == "hub"
    kind = [encoder["name"]] if encoder["kind"] == "defm" else []
    return ModelCardData(
        license=license_name,
        library_name="defm-rl",
        pipeline_tag="reinforcement-learning",
        tags=["reinforcement-learning", "robotics", "depth", config.env.id, config.algo.name, *kind],
        base_model=REPOSITORY if published else None,
        model_name=repository,
        eval_results=[
            EvalResult(
                task_type="reinforcement-learning",
                task_name="reinforcement learning",
                dataset_type=config.env.id,
                dataset_name=task,
                metric_type=name,
                metric_name=name.replace("_", " "),
                metric_value=round(figure["mean"], 4),
                metric_args={
                    "confidence": 0.95,
                    **{end: round(figure[end], 4) for end in ("low", "high")},
                    "episodes": figure["episodes"],
                },
            )
            for name, figure in figures.items()
        ],
    )


def _figures(evaluation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The figures of an evaluation that are numbers, success first; failures by their names."""
    failures = {f"{name}_failures": share for name, share in evaluation["failures"].items()}
    figures = {name: figure for name, figure in evaluation.items() if name != "failures"}
    return {name: figure for name, figure in {**figures, **failures}.items() if math.isfinite(figure["mean"])}


def _figure(figure: dict[str, Any], name: str) -> str:
    """A table's cells: the value, and its interval."""
    scale, digits, unit = (100, 1, " %") if name.endswith(("_rate", "_failures")) else (1, 3, "")
    mean, low, high = (f"{scale * figure[end]:.{digits}f}" for end in ("mean", "low", "high"))
    return f"{mean}{unit} | {low} to {high}{unit}"
