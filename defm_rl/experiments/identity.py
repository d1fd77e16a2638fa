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


def run_digest(config: Config) -> str:
    """The identity of a run: 12 hexadecimal digits of the SHA-256 of all settings that determine its results.

    Files count by what is in them: an encoder's weights, and a teacher's checkpoint. What is the same written
    differently, by an option or key by key, is one run; names, folders, loggers and how often a checkpoint is written
    make no difference.
    """
    values = dataclasses.asdict(config)
    for key in _NO_MATTER:
        group, _, name = key.rpartition(".")
        (values[group] if group else values).pop(name, None)
    weights = Path(config.encoder.weights).expanduser()
    if config.encoder.weights not in ("hub", "random") and weights.is_file():
        values["encoder"]["weights"] = file_sha256(weights)
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


def _checkpoint_sha256(folder: str) -> str:
    """Of all files of a run's newest checkpoint; the folder's name where there is none, which training will refuse."""
    checkpoint = Run(Path(folder)).checkpoint
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file())
    return _sha256({path.relative_to(checkpoint).as_posix(): file_sha256(path) for path in files} or folder)


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()
