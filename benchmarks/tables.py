"""Writes the tables of `docs/performance.md` from `results/**.json`, between its comments that name them."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness

PAGE = Path(__file__).parent.parent / "docs" / "performance.md"
TABLE = re.compile(r"(<!-- table: ([\w/]+) -->\n).*?(<!-- end -->)", re.DOTALL)

Row = dict[str, Any]


def encoders_cpu(rows: list[Row]) -> list[Row]:
    """One row for an encoder and a size, one column for a batch: "published → ours (times faster)"."""
    batches = sorted({row["batch"] for row in rows})
    cases: dict[tuple[str, str], dict[int, Row]] = {}
    for row in rows:
        cases.setdefault((row["encoder"], row["size"]), {})[row["batch"]] = row
    table = []
    for (encoder, size), by_batch in cases.items():
        cells = {f"batch {batch}": _pair(by_batch[batch]) if batch in by_batch else "" for batch in batches}
        largest = by_batch[max(by_batch)]
        gflop_s = round(largest["GFLOP"] / largest["ours ms"] * 1e3)
        table.append({"encoder": encoder, "size": size, **cells, "GFLOP/s at the largest": gflop_s})
    return table


def precision_cpu(rows: list[Row]) -> list[Row]:
    """Ours alone, by precision."""
    keys = ("encoder", "size", "batch", "precision", "ours ms", "relative error")
    return [{key: row[key] for key in keys} for row in rows]


def without_spread(rows: list[Row]) -> list[Row]:
    """All columns but the spread."""
    return [{key: value for key, value in row.items() if key != "spread"} for row in rows]


TABLES: dict[str, Callable[[list[Row]], list[Row]]] = {
    "encoders_cpu": encoders_cpu,
    "encoders_1024_cpu": encoders_cpu,
    "precision_cpu": precision_cpu,
}


def _pair(row: Row) -> str:
    a, b = (f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}" for ms in (row["published ms"], row["ours ms"]))
    return f"{a} → {b} ({row['times faster']:.1f})"


def _write(match: re.Match[str]) -> str:
    name = match[2]
    content = json.loads((harness.RESULTS / f"{name}.json").read_text())
    table = harness.table(TABLES.get(Path(name).name, without_spread)(content["rows"]))
    made = content["machine"]
    cpu = f"{made['cpu']} with {made['instructions']}"
    place = f"{made['gpu'] or cpu}, {made['threads']} threads, PyTorch {made['torch']}, {made['date']}."
    return f"{match[1]}{table}\n\n{place}\n{match[3]}"


def main() -> None:
    PAGE.write_text(TABLE.sub(_write, PAGE.read_text()))


if __name__ == "__main__":
    main()
