"""`defm-rl encoders`: the published encoders, and those that were registered, as a table."""

import sys
from collections.abc import Sequence

from defm_rl.encoders import list_encoders

_NOTE = """\
maps: channels by level as the backbone gives them (P3, P4, P5 at strides 8, 16, 32; P14: patches of 14 pixels).
BiFPN: channels of every map after it; others have none.
Those that begin with defm_ are DeFM's; "package.module:Class(width=64)" names one that is not registered.
Published figures, from the README of defm 1.1.0, at 224x224: latency in ms of a batch of 128 on an RTX 4090 and on a
Jetson Orin (precision and runtime not stated); top-5 k-NN and linear-probe accuracy on ImageNet-1k depth, in %.
"""


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    if {"-h", "--help"} & set(arguments):
        sys.stdout.write(f"usage: defm-rl encoders\n\n{__doc__}\n")
        return 0
    if arguments:
        sys.stderr.write(f"defm-rl encoders: takes no arguments, got {' '.join(arguments)}\n")
        return 2
    sys.stdout.write(encoder_table())
    return 0


def encoder_table() -> str:
    """All encoders that are known by name as an aligned table, with a note on what its figures are."""
    header = ("encoder", "params (M)", "global", "maps", "BiFPN", "4090 ms", "Orin ms", "k-NN %", "probe %")
    rows = [
        (
            card.name,
            _figure(None if card.parameters is None else card.parameters / 1e6, 1),
            str(card.channels.get("global", "-")),
            ", ".join(f"{level} {card.channels[level]}" for level in card.levels) or "-",
            "-" if card.bifpn_channels is None else str(card.bifpn_channels),
            _figure(card.rtx4090_batch128_ms),
            _figure(card.jetson_orin_ms),
            _figure(card.knn_top5_percent),
            _figure(card.linear_probe_percent),
        )
        for card in list_encoders()
    ]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    left = [header.index(name) for name in ("encoder", "maps")]
    lines = [
        "  ".join(
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (header, ["-" * width for width in widths], *rows)
    ]
    return "\n".join(line.rstrip() for line in lines) + "\n\n" + _NOTE


def _figure(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
