"""Which run a configuration stands for: the digest of what determines its results, and the name of its folder."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path
from typing import Any

from defm_rl.encoders.weights import file_sha256
from defm_rl.experiments.config import Config
from defm_rl.experiments.runs import Run

_DIGITS = 12  # of the digest: two of a million runs share one with a probability of one to five hundred
# What it is called, where it runs, and what is kept of it.
_NO_MATTER = ("experiment", "logger", "resume", "checkpoint_every", "evaluation.clips", "env.device")
# Settings that came after runs had identities, each with the value that stands for what was done before it was there:
# with that value a run is the one that it was.
_LATER: dict[str, Any] = {}


def run_digest(config: Config) -> str:
    """The identity of a run: 12 hexadecimal digits of the SHA-256 of all settings that determine its results.

    Files count by what is in them: an encoder's weights, and a teacher's checkpoint. What is the same written
    differently, by an option or key by key, is one run; names, folders, loggers and how often a checkpoint is written
    make no difference; nor do settings that came later, while they say what was done before them.
    """
    values = _as_dict(config)
    for key in _NO_MATTER:
        part, name = _place(values, key)
        part.pop(name, None)
    for key, before in _LATER.items():
        part, name = _place(values, key)
        if part.get(name) == before:
            part.pop(name, None)
    weights = Path(config.encoder.weights).expanduser()
    if config.encoder.weights not in ("hub", "random") and weights.is_file():
        part, name = _place(values, "encoder.weights")
        part[name] = file_sha256(weights)
    if config.teacher is not None:
        values["teacher"] = _checkpoint_sha256(config.teacher)
    return _sha256(values)[:_DIGITS]


def run_name(config: Config, digest: str | None = None) -> str:
    """The name of a run's folder among those of a sweep, such as `resnet18-seed0-3f786850e387`.

    Args:
        config: The run's.
        digest: Its identity, where it is known.
    """
    encoder = config.encoder.name.removeprefix("defm_") if config.encoder.kind == "defm" else config.encoder.kind
    readable = re.sub(r"[^\w.]+", "_", encoder).strip("_")[:40]
    return f"{readable}-seed{config.seed}-{digest or run_digest(config)}"


def _place(values: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """The dictionary that a dotted key is in, made where a dataclass stands for it, and the key's name there."""
    *groups, name = key.split(".")
    for group in groups:
        part = values.get(group, {})
        if dataclasses.is_dataclass(part):
            part = values[group] = _as_dict(part)
        values = part
    return values, name


def _as_dict(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as they are: to copy all below them, as `asdict` does, would take most of the time."""
    return {entry.name: getattr(settings, entry.name) for entry in dataclasses.fields(settings)}


def _checkpoint_sha256(folder: str) -> str:
    """Of all files of a run's newest checkpoint; the folder's name where there is none, which training will refuse."""
    checkpoint = Run(Path(folder)).checkpoint
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return _sha256({path.relative_to(checkpoint).as_posix(): file_sha256(path) for path in files} or folder)


def _sha256(content: Any) -> str:
    def plain(value: Any) -> Any:
        return _as_dict(value) if dataclasses.is_dataclass(value) else str(value)

    return hashlib.sha256(json.dumps(content, sort_keys=True, default=plain).encode()).hexdigest()
