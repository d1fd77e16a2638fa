"""The command `defm-rl`: each of its commands is a module of `defm_rl.commands`, imported when it is asked for."""

import argparse
import difflib
import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

_COMMANDS = {
    "doctor": "what is installed and works here, what is missing, and how to get it",
    "encoders": "list the published encoders",
    "train": "train a policy: defm-rl train experiment=quickstart",
    "evaluate": "trained policies behind any depth camera: defm-rl evaluate RUN... sensors=all",
    "runs": "where the runs in a folder stand, their success and cost: defm-rl runs [FOLDER] [--json]",
    "report": "a sweep as one page, finished or not: defm-rl report SWEEP",
    "push": "a trained policy to the Hugging Face Hub: defm-rl push RUN user/repo",
    "pull": "a policy from the Hub: defm-rl pull user/repo, or at once defm-rl evaluate hf://user/repo",
    "check-env": "whether your task's depth is what it is taken for: defm-rl check-env env=gymnasium env.id=...",
    "adapt": "an encoder for other cameras, the policy left as it is: defm-rl adapt RUN sensors=[stereo]",
    "gap": "what other cameras do to an encoder's features: defm-rl gap encoder=resnet18",
    "view": "depth as a camera gives it and as an encoder sees it, in a browser: defm-rl view recording.bag",
    "probe": "whether an encoder is any good for a camera, before any training: defm-rl probe encoders=[resnet18]",
    "memory": "how much memory a training will take: defm-rl memory experiment=quickstart env.num_envs=4096",
    "export": "a run's whole policy in one file for the robot: defm-rl export RUN precision=int8",
    "export-encoder": "an encoder alone in one file: defm-rl export-encoder defm_resnet18 size=96,160",
    "compare": "where two of runs and exported files part: defm-rl compare RUN policy.onnx",
    "bench-latency": "one frame at a time on this machine: defm-rl bench-latency policy.onnx",
    "completion": "what makes Tab complete all of this: defm-rl completion bash",
}
_EXTRAS = {"onnx": "deploy", "onnxruntime": "deploy", "onnxscript": "deploy"}
_EXTRAS |= {"ray": "ray", "submitit": "slurm", "optuna": "optuna"}  # of the module that is missing


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
    if command in _COMMANDS:
        return _run(command, argv[1:])
    parser = _parser()
    if command and not command.startswith("-"):
        close = difflib.get_close_matches(command, _COMMANDS, n=1)
        suggestion = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_COMMANDS)}"
        parser.error(f"unknown command {command!r}: {suggestion}")
    parser.parse_args(argv)
    parser.print_help()
    return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="defm-rl", description="DeFM depth encoders behind robot policies.")
    parser.add_argument("--version", action="version", version=f"defm-rl {importlib.metadata.version('defm-rl')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, summary in _COMMANDS.items():
        commands.add_parser(name, help=summary, description=summary)
    return parser


def _run(command: str, rest: list[str]) -> int:
    try:
        status: int = importlib.import_module(f"defm_rl.commands.{command.replace('-', '_')}").main(rest)
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
