"""`defm-rl export RUN`: a run's whole policy in one file, checked against the run before it is written."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from defm_rl.commands.running import command
from defm_rl.commands.settings import UsageError, parse, usage

_logger = logging.getLogger(__name__)
NAMES = ("RUN",)


@dataclass
class Settings:
    """What can be said after the run, as key=value."""

    format: str = "onnx"  # onnx, exported_program or torchscript
    precision: str = "float32"  # float32, float16 or int8
    adapted: str = ""  # weights of `defm-rl adapt`, in the place of the encoder's own
    path: str = ""  # of the file; empty: policy.onnx (.pt2, .pt) in the run's folder; adapted: named as its weights
    episodes: int = 0  # of ONNX: driven by the run and by the file, to compare their success


@command("export", lambda: usage("export", NAMES, Settings, __doc__ or ""), ValueError)
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    from defm_rl.deploy.driving import success
    from defm_rl.deploy.exporting import FORMATS, export
    from defm_rl.experiments.evaluation import describe

    (run,), chosen = parse(Settings, arguments, NAMES)
    adapted = Path(chosen.adapted) if chosen.adapted else None
    default = Path(run) / "policy" if adapted is None else adapted
    path = Path(chosen.path or default.with_suffix(FORMATS.get(chosen.format, "")))
    if chosen.episodes and chosen.format != "onnx":
        raise UsageError(f"episodes={chosen.episodes}: format=onnx alone can be driven")
    exported = export(run, path, chosen.format, chosen.precision, adapted=adapted)
    checked = exported.contract.checked
    _logger.info(
        "%s (%.1f MB), and its contract in %s",
        exported.path,
        exported.path.stat().st_size / 1e6,
        exported.path.with_suffix(".yaml").name,
    )
    _logger.info(
        "On %d frames of the task its actions differ from the run's by up to %.2g (%.2g in the mean).",
        checked["frames"],
        checked["largest_difference"],
        checked["mean_difference"],
    )
    if exported.contract.made_by["encoder"].get("weights") == "random":
        _logger.info("(the encoder's weights are random, not the published ones)")
    if chosen.episodes:
        for name, figures in success(Path(run), exported.path, chosen.episodes, adapted).items():
            _logger.info("%s: %s", name, describe(figures))
    return 0
