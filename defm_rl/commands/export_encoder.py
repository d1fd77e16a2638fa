"""`defm-rl export-encoder NAME`: an encoder alone as one file, depth in metres in, features out."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from defm_rl.commands.running import command
from defm_rl.commands.settings import parse, usage

_logger = logging.getLogger(__name__)
NAMES = ("NAME",)


@dataclass
class Settings:
    """What can be said after the name, as key=value."""

    size: tuple[int, int] = (224, 224)  # height and width of the depth images
    weights: str = "hub"  # hub, a path, or random
    features: str = "global"  # one, or several separated by commas
    pool: str = "grid"  # how a map becomes a vector
    grid: tuple[int, int] = (2, 4)  # rows and columns of the grid pool
    bifpn: bool = True  # whether maps pass through the BiFPN
    format: str = "onnx"  # onnx, exported_program or torchscript
    precision: str = "float32"  # float32 or float16
    path: str = ""  # of the file; empty: NAME.onnx (NAME.pt2, NAME.pt) here


@command("export-encoder", lambda: usage("export-encoder", NAMES, Settings, __doc__ or ""), ValueError)
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    from defm_rl.deploy.exporting import FORMATS, export_encoder

    (name,), chosen = parse(Settings, arguments, NAMES)
    exported = export_encoder(
        name,
        chosen.path or f"{name}{FORMATS.get(chosen.format, '')}",
        chosen.format,
        chosen.precision,
        weights=chosen.weights,
        image_size=chosen.size,
        features=chosen.features.split(","),
        pool=chosen.pool,
        grid=chosen.grid,
        bifpn=chosen.bifpn,
    )
    difference = exported.contract.checked["largest_difference"]
    _logger.info("%s: its features differ from PyTorch's by up to %.2g.", exported.path, difference)
    return 0
