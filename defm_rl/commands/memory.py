"""`defm-rl memory experiment=...`: how much memory a training will take, before it is run."""

import dataclasses
import json
import sys
from collections.abc import Sequence

from defm_rl.commands.running import command
from defm_rl.experiments.config import ConfigError, compose_config, with_search_path
from defm_rl.experiments.memory import TrainingMemory, estimate_training
from defm_rl.experiments.overrides import check_overrides
from defm_rl.experiments.runs import to_config

_USAGE = """\
usage: defm-rl memory [--json] [--device=cpu|cuda] [key=value ...]

{summary}
Keys are those of `defm-rl train`; --device: where the networks will be, by default where training would put them.
"""
_FLAGS = ("--json", "--device=cpu", "--device=cuda")


def table(memory: TrainingMemory) -> str:
    """The estimate as aligned text, in MB of 10^6 bytes."""
    where = "networks on the CPU" if memory.device == "cpu" else "GPU"
    rows = [
        ("encoder's weights", memory.encoder_weights),
        ("policy's weights", memory.policy_weights),
        ("optimizer", memory.optimizer),
        ("encoding a step, peak", memory.encoding),
        ("acting a step, peak", memory.acting),
        ("gradient step, peak", memory.update),
        (f"{where}, at the worst moment", memory.device_total),
        (f"buffer of {memory.transitions:,} transitions", memory.buffer),
        ("flattening the buffer", memory.reordering),
        ("host, at the worst moment", memory.host_total),
    ]
    width = max(len(name) for name, _ in rows)
    lines = [f"{name.ljust(width)}  {size / 1e6:12,.1f} MB" for name, size in rows]
    images = memory.transition_with_images * memory.transitions / 1e6
    return "\n".join(
        [
            *lines,
            "",
            f"A transition takes {memory.transition:,} bytes; with float32 images of three channels it would take "
            f"{memory.transition_with_images:,}, and the buffer {images:,.1f} MB.",
            "The simulator, PyTorch itself and the interpreter come on top.",
        ]
    )


@command("memory", lambda: _USAGE.format(summary=__doc__))
def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit status."""
    arguments = with_search_path(arguments)
    flags = [argument for argument in arguments if argument.startswith("-")]
    unknown = [flag for flag in flags if flag not in _FLAGS]
    if unknown:
        raise ConfigError(f"there is no option {unknown[0]!r}: there is {', '.join(_FLAGS)}.")
    overrides = [argument for argument in arguments if argument not in flags]
    check_overrides(overrides)
    device = next((flag.partition("=")[2] for flag in flags if flag.startswith("--device=")), None)
    memory = estimate_training(to_config(compose_config(overrides)), device)
    if "--json" in flags:
        totals = {"device_total": memory.device_total, "host_total": memory.host_total}
        sys.stdout.write(json.dumps({**dataclasses.asdict(memory), **totals}, indent=2) + "\n")
    else:
        sys.stdout.write(table(memory) + "\n")
    return 0
