"""The report as one HTML page that needs nothing beside it."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Template
from markupsafe import Markup
from PIL import Image

from defm_rl.experiments.outcomes import duration
from defm_rl.experiments.report import charts
from defm_rl.experiments.report.arms import Arm
from defm_rl.experiments.report.clips import Clip
from defm_rl.experiments.report.scenes import EncoderReport, Picture
from defm_rl.experiments.templates import template

_PLAIN = ("steps", "reward")  # measures that are no share


def render(
    summary: Mapping[str, Any], arms: Sequence[Arm], encoders: Sequence[EncoderReport], clips: Sequence[Clip]
) -> str:
    """The page.

    Args:
        summary: What report.json holds.
        arms: The policies, for their learning curves.
        encoders: The encoders' part, with pictures.
        clips: Films of episodes.
    """
    policies = summary.get("policies", [])
    tasks = list(dict.fromkeys(policy["task"] for policy in policies))
    return report_template("page.html.jinja").render(
        summary=summary,
        sections=[_task_section(summary, number, task, arms) for number, task in enumerate(tasks)],
        encoders=encoders,
        scales=[_scale(encoder.far_m, f"encoder{i}") for i, encoder in enumerate(encoders)],
        recorded_scales=[_scale(encoder.recorded_far_m, f"recorded{i}") for i, encoder in enumerate(encoders)],
        clips=clips,
        random_weights=_random_weights(summary),
        measure=charts.measure_name(summary.get("measure", "success")),
        percent=_percent(summary),
    )


def report_template(name: str) -> Template:
    """One of the pages, with what they write figures by."""
    return template(
        "defm_rl.experiments.report",
        name,
        png=png_uri,
        gif=gif_uri,
        share=share,
        figure=figure,
        signed=signed,
        number=number,
        p_value=p_value,
        commit=commit,
        breakable=breakable,
        duration=duration,
    )


def _scale(far_m: float, name: str) -> Markup:
    return Markup(charts.with_ids(charts.depth_scale(far_m), name))


def _task_section(summary: Mapping[str, Any], number: int, task: str, arms: Sequence[Arm]) -> dict[str, Any]:
    """What is drawn of one task: policies of different tasks share no axis."""
    policies = [policy for policy in summary["policies"] if policy["task"] == task and policy["by_sensor"]]
    sensors = [name for name in summary["sensors"] if any(name in policy["by_sensor"] for policy in policies)]

    def chart(svg: str | None) -> Markup | None:
        return None if svg is None else Markup(charts.with_ids(svg, f"task{number}"))

    return {
        "task": task,
        "policies": policies,
        "sensors": sensors,
        "comparisons": [compared for compared in summary["comparisons"] if compared["task"] == task],
        "modes": charts.failure_modes(policies),
        "by_sensor": chart(charts.by_sensor(summary, policies)),
        "profiles": chart(charts.profiles(policies, summary["measure"])),
        "failures": chart(charts.failures(policies, sensors)),
        "curves": chart(charts.learning_curves([arm for arm in arms if arm.task == task])),
    }


def _random_weights(summary: Mapping[str, Any]) -> list[str]:
    """Everything in the report that ran without published weights."""
    policies = [policy for policy in summary.get("policies", []) if policy["weights"] == "random"]
    encoders = [part["encoder"] for part in summary.get("encoders", []) if part["weights"] == "random"]
    told = {policy["encoder"].partition(" (")[0] for policy in policies}  # without how it is trained
    names = [policy["name"] for policy in policies]
    names += [name for name in encoders if name.removeprefix("defm_") not in told]
    return list(dict.fromkeys(names))


def _percent(summary: Mapping[str, Any]) -> bool:
    """Whether the measure reads best in percent."""
    figures = [seen["figure"] for policy in summary.get("policies", []) for seen in policy["by_sensor"].values()]
    return summary.get("measure") not in (*_PLAIN, "spl") and all(0 <= figure["value"] <= 1 for figure in figures)


def png_uri(picture: Picture) -> str:
    """A picture, pixel for pixel."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG", optimize=True)
    return _uri("image/png", buffer.getvalue())


def gif_uri(gif: bytes) -> str:
    """A film."""
    return _uri("image/gif", gif)


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def share(value: float) -> str:
    """0.934 as 93.4 %."""
    return f"{100 * value:.1f}\u202f%"


def number(value: float | None, digits: int = 3) -> str:
    """With so many digits after the point; a dash where there is none."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")


def figure(value: Mapping[str, Any], percent: bool) -> str:
    """The interval of a figure."""
    if value["low"] is None:
        return "one run"
    scale, digits = (100, 1) if percent else (1, 3)
    return f"{number(scale * value['low'], digits)} to {number(scale * value['high'], digits)}"


def signed(value: float, percent: bool) -> str:
    """A difference, with its sign; shares in percentage points."""
    digits = 1 if percent else 3
    rounded = round(100 * value if percent else value, digits)
    return "0" if rounded == 0 else f"{rounded:+.{digits}f}".replace("-", "−")


def commit(name: str | None) -> str:
    """Short, with a mark where the working tree differed from it."""
    return "no checkout" if name is None else "+".join([name[:10], *name.split("+")[1:]])


def breakable(name: str) -> Markup:
    """A name that may go on in the next line after each underscore."""
    return Markup("_<wbr>").join(name.split("_"))


def p_value(value: float | None) -> str:
    """As precise as it is worth."""
    if value is None:
        return "–"
    return "< 0.0001" if value < 1e-4 else f"{value:.4f}" if value < 0.01 else f"{value:.2f}"
