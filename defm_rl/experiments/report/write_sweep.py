"""A sweep's files: report.html, report.json and report.csv."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from defm_rl.experiments.outcomes import Outcome
from defm_rl.experiments.provenance import provenance
from defm_rl.experiments.report import sweep_charts
from defm_rl.experiments.report.charts import measure_name, with_ids
from defm_rl.experiments.report.page import report_template
from defm_rl.experiments.report.sweep import Group, summarize
from defm_rl.experiments.report.write import write_csv
from defm_rl.experiments.runs import write_json


def write_sweep(folder: Path, title: str, folders: Sequence[Path], outcomes: Sequence[Outcome], measure: str) -> Path:
    """Writes the report of a sweep, finished or not.

    Args:
        folder: Where to; made if it is not there.
        title: Its headline.
        folders: Where the runs are.
        outcomes: The runs.
        measure: "success", or another figure of the evaluations.

    Returns:
        The page.

    Raises:
        ConfigError: Where an evaluation does not have this measure, or a run cannot be read.
    """
    found, groups = summarize(outcomes, measure)
    content = {"title": title, "folders": list(map(str, folders)), **found, "made_by": provenance()}
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "report.json", content)
    write_csv(folder / "report.csv", content["runs"])
    page = folder / "report.html"
    page.write_text(render(content, groups), encoding="utf-8")
    return Path(os.path.relpath(page))


def render(summary: Mapping[str, Any], groups: Sequence[Group]) -> str:
    """The page."""
    looks = sweep_charts.styles(list(dict.fromkeys(group.name for group in groups)))
    scores = [
        score for section in summary["sections"] for setting in section["settings"] for score in setting["scores"]
    ]
    return report_template("sweep.html.jinja").render(
        summary=summary,
        sections=[_drawn(n, section, groups, summary, looks) for n, section in enumerate(summary["sections"])],
        measure=measure_name(summary["measure"]),
        percent=summary["measure"] not in ("spl", "reward", "steps") and all(0 <= score <= 1 for score in scores),
    )


def _drawn(
    number: int, section: Mapping[str, Any], groups: Sequence[Group], summary: Mapping[str, Any], looks: Any
) -> dict[str, Any]:
    own = [group for group in groups if group.task == section["title"]]
    drawn = {
        "intervals": sweep_charts.intervals(section["settings"], summary["measure"], looks),
        "profiles": sweep_charts.profiles(section["settings"], summary["measure"], looks),
        "cost": sweep_charts.cost(section["settings"], summary["measure"], looks),
        "curves": sweep_charts.curves(own, looks),
    }
    known = [setting["iqm"]["runs"] for setting in section["settings"] if setting["iqm"]]
    return {
        **section,
        **{name: None if svg is None else Markup(with_ids(svg, f"section{number}")) for name, svg in drawn.items()},
        "few": any(runs < 4 for runs in known),
    }
