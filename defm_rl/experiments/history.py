"""history.csv: how a training went, one row after the other, steps always growing."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path


def read(path: Path) -> list[dict[str, str]]:
    """The rows, in order; none where there is no file. What a row does not have is empty."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: text or "" for name, text in row.items()} for row in csv.DictReader(file, restkey="")]


def append(path: Path, row: Mapping[str, object]) -> None:
    """Adds a row, or leaves the file as it was; columns that the file does not have are added to it."""
    columns = _columns(path)
    if not set(row) <= set(columns):
        columns = list(dict.fromkeys([*columns, *row]))
        _write(path, columns, read(path))
    size = path.stat().st_size
    try:
        with path.open("a", newline="") as file:
            csv.DictWriter(file, columns).writerow(row)
    except OSError:
        os.truncate(path, size)  # without the half of a row that a full disk had room for
        raise


def cut(path: Path, steps: int) -> bool:
    """Drops what lies beyond so many steps: rows of a process that came further than its last checkpoint.

    Returns:
        Whether there was any.
    """
    rows = read(path)
    kept: list[dict[str, str]] = []
    for row in rows:
        if row["steps"].isdigit() and (int(kept[-1]["steps"]) if kept else 0) < int(row["steps"]) <= steps:
            kept.append(row)
    if rows:
        _write(path, list(rows[0]), kept)  # without the half of a line that a process may have left at the end
    return len(kept) < len(rows)


def _columns(path: Path) -> list[str]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return next(csv.reader(file), [])


def _write(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    """Writes a file that is either whole or as it was."""
    temporary = path.with_suffix(".tmp")
    with temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, columns, extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    temporary.replace(path)
