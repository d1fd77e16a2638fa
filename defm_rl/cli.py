"""The command `defm-rl`: what needs only the library is done here, the rest is imported when it is asked for."""

import argparse
import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

_COMMANDS = {
    "encoders": "list the published encoders",
    "train": "train a policy: defm-rl train experiment=quickstart",
    "evaluate": "trained policies behind any depth camera: defm-rl evaluate RUN... sensors=all",
    "adapt": "an encoder for other cameras, the policy left as it is: defm-rl adapt RUN sensors=[stereo]",
    "gap": "what other cameras do to an encoder's features: defm-rl gap encoder=resnet18",
    "memory": "how much memory a training will take: defm-rl memory experiment=quickstart env.num_envs=4096",
    "export": "a run's whole policy in one file for the robot: defm-rl export RUN precision=int8",
    "export-encoder": "an encoder alone in one file: defm-rl export-encoder defm_resnet18 size=96,160",
    "compare": "where two of runs and exported files part: defm-rl compare RUN policy.onnx",
    "bench-latency": "one frame at a time on this machine: defm-rl bench-latency policy.onnx",
}
# These take the rest of the command line as it is. What they need is in an extra of this distribution.
_MODULES = {
    **{name: f"defm_rl.experiments.{name}" for name in ("train", "evaluate", "adapt", "gap", "memory")},
    **{
        name: f"defm_rl.commands.{name.replace('-', '_')}"
        for name in ("export", "export-encoder", "compare", "bench-latency")
    },
}
_EXTRAS = {"onnx": "deploy", "onnxruntime": "deploy", "onnxscript": "deploy"}  # of the module that is missing

_NOTE = """\
maps: channels by level as the backbone gives them (P3, P4, P5 at strides 8, 16, 32; P14: patches of 14 pixels).
BiFPN: channels of every map after it; the ViTs have none.
Published figures, from the README of defm 1.1.0, at 224x224: latency in ms of a batch of 128 on an RTX 4090 and on a
Jetson Orin (precision and runtime not stated); top-5 k-NN and linear-probe accuracy on ImageNet-1k depth, in %.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        argv: The arguments after the command's name; those of the process by default.

    Returns:
        The exit status.

    Raises:
        SystemExit: After help, the version, or a wrong command line.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else ""
    if command in _MODULES:
        return _run_module(command, argv[1:])
    parser = _parser()
    if command and not command.startswith("-") and command not in _COMMANDS:
        close = difflib.get_close_matches(command, _COMMANDS, n=1)
        suggestion = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_COMMANDS)}"
        parser.error(f"unknown command {command!r}: {suggestion}")
    arguments = parser.parse_args(argv)
    if arguments.command is None:
        parser.print_help()
        return 2
    sys.stdout.write(encoder_table())
    return 0


def encoder_table() -> str:
    """The published encoders as an aligned table, with a note on what its figures are."""
    from defm_rl.encoders import list_encoders

    header = ("encoder", "params (M)", "global", "maps", "BiFPN", "4090 ms", "Orin ms", "k-NN %", "probe %")
    rows = [
        (
            card.name,
            f"{card.parameters / 1e6:.1f}",
            str(card.channels["global"]),
            ", ".join(f"{level} {card.channels[level]}" for level in card.levels),
            "-" if card.bifpn_channels is None else str(card.bifpn_channels),
            f"{card.rtx4090_batch128_ms:.2f}",
            f"{card.jetson_orin_ms:.2f}",
            f"{card.knn_top5_percent:.2f}",
            f"{card.linear_probe_percent:.2f}",
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


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="defm-rl", description="DeFM depth encoders behind robot policies.")
    parser.add_argument("--version", action="version", version=f"defm-rl {importlib.metadata.version('defm-rl')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        commands.add_parser(name, help=summary, description=summary)
    return parser


def _run_module(command: str, rest: list[str]) -> int:
    try:
        status: int = importlib.import_module(_MODULES[command]).main(rest)
    except ModuleNotFoundError as error:
        if (error.name or "defm_rl").startswith("defm_rl"):
            raise
        extra = _EXTRAS.get(error.name or "", "experiments")
        # Whose MuJoCo the other extra would replace.
        if extra == "experiments" and any(importlib.metadata.distributions(name="isaaclab")):
            extra = "isaaclab"
        sys.stderr.write(
            f"defm-rl {command} needs {error.name}, which is not installed: pip install 'defm-rl[{extra}]'\n"
        )
        return 1
    return status


if __name__ == "__main__":
    sys.exit(main())
