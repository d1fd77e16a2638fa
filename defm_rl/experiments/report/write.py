"""A report's files: report.html, report.json and report.csv."""

import csv
import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from defm_rl.experiments.provenance import provenance
from defm_rl.experiments.report import page
from defm_rl.experiments.report.arms import Arm
from defm_rl.experiments.report.clips import Clip
from defm_rl.experiments.report.scenes import EncoderReport
from defm_rl.experiments.report.summary import rows
from defm_rl.experiments.runs import write_json


def default_folder() -> Path:
    """A folder of its own for each report."""
    return Path("runs") / "report" / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")


def write_report(
    folder: Path,
    title: str,
    summary: Mapping[str, Any],
    *,
    arms: Sequence[Arm] = (),
    encoders: Sequence[EncoderReport] = (),
    clips: Sequence[Clip] = (),
) -> Path:
    """Writes a report.

    Args:
        folder: Where to; made if it is not there.
        title: Its headline.
        summary: The policies' part, if any, and whatever else report.json is to hold.
        arms: The policies.
        encoders: The encoders' part.
        clips: Films of episodes.

    Returns:
        The page.
    """
    folder.mkdir(parents=True, exist_ok=True)
    content = {
        "title": title,
        **summary,
        "encoders": [encoder.summary for encoder in encoders],
        "made_by": provenance(),
    }
    write_json(folder / "report.json", content)
    write_csv(folder / "report.csv", rows(content) if "policies" in content else _feature_rows(encoders))
    file = folder / "report.html"
    file.write_text(page.render(content, arms, encoders, clips), encoding="utf-8")
    return Path(os.path.relpath(file))


def _feature_rows(encoders: Sequence[EncoderReport]) -> list[dict[str, Any]]:
    return [
        {"encoder": encoder.summary["encoder"], "weights": encoder.summary["weights"], **row}
        for encoder in encoders
        for row in encoder.summary["cameras"]
    ]


def write_csv(path: Path, table: Sequence[Mapping[str, Any]]) -> None:
    """Columns in order of their first appearance; what a row lacks stays empty."""
    columns = list(dict.fromkeys(key for row in table for key in row))
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        writer.writerows(table)
