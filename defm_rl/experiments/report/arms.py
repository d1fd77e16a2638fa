"""Runs that differ only in their seed are one policy, an arm of the study; arms are named by what sets them apart."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from defm_rl.experiments.config import Config
from defm_rl.experiments.runs import Run
from defm_rl.experiments.tasks import make_task

# What says nothing about the policy: how it was watched, judged and driven.
_APART = ("seed", "resume", "logger", "evaluation", "checkpoint_every", "experiment")
_ENCODER = "encoder."
_TASK = ("env.id", "env.level")


@dataclass(frozen=True, eq=False)
class Arm:
    """One policy, trained with one or several seeds.

    Attributes:
        name: What sets it apart from the other arms.
        runs: Its runs, by seed.
        configs: Their configurations.
        adapted: A file of adapted weights that take the place of their encoder's own.
    """

    name: str
    runs: tuple[Run, ...]
    configs: tuple[Config, ...]
    adapted: Path | None = None

    @property
    def config(self) -> Config:
        """What all of its runs share."""
        return self.configs[0]

    @property
    def task(self) -> str:
        """Environment and level; only arms of one task are compared."""
        return task_name(self.config)

    @property
    def trained_with(self) -> str:
        """The sensor of its training."""
        return make_task(self.config.env).sensor


def group(runs: Sequence[Run], configs: Sequence[Config]) -> list[Arm]:
    """Puts runs into arms, in the order in which these first come."""
    groups: dict[str, list[int]] = {}
    settings = [settings_of(config) for config in configs]
    for index, values in enumerate(settings):
        groups.setdefault(repr(sorted(values.items())), []).append(index)
    firsts = [indices[0] for indices in groups.values()]
    names = names_of([configs[index] for index in firsts], [settings[index] for index in firsts])
    arms = []
    for name, indices in zip(names, groups.values(), strict=True):
        ordered = sorted(indices, key=lambda index: configs[index].seed)
        arms.append(Arm(name, tuple(runs[i] for i in ordered), tuple(configs[i] for i in ordered)))
    return arms


def adapted_arm(arm: Arm, adapted: Path) -> Arm:
    """The same policy with the weights of an adaptation in the place of its encoder's own."""
    return dataclasses.replace(arm, name=f"{arm.name}, adapted", adapted=adapted)


def task_name(config: Config) -> str:
    """Environment and level."""
    return make_task(config.env).name


def encoder_name(config: Config) -> str:
    """The encoder, how it is trained, and which weights it has if not the published ones."""
    encoder = config.encoder
    if encoder.kind != "defm":
        return {"cnn": "CNN from scratch"}.get(encoder.kind, encoder.kind)
    trained = "fine-tuned" if encoder.trainable else "frozen"
    weights = "" if encoder.weights == "hub" else f", {encoder.weights} weights"
    return f"{encoder.name.removeprefix('defm_')} ({trained}{weights})"


def settings_of(config: Config) -> dict[str, Any]:
    """The configuration by dotted keys, what says nothing about the policy left out."""
    flat: dict[str, Any] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, part in value.items():
                walk(f"{prefix}.{key}" if prefix else key, part)
        else:
            flat[prefix] = value

    walk("", {key: part for key, part in dataclasses.asdict(config).items() if key not in _APART})
    return flat


def names_of(configs: Sequence[Config], settings: Sequence[dict[str, Any]]) -> list[str]:
    """The encoder, then whatever else differs between arms; what the encoder's name says already is left out."""
    encoders = [encoder_name(config) for config in configs]
    keys = [
        key
        for key in dict.fromkeys(key for values in settings for key in values)
        if len({repr(values.get(key)) for values in settings}) > 1
    ]
    names = []
    for encoder, config, values in zip(encoders, configs, settings, strict=True):
        alike = [other for name, other in zip(encoders, settings, strict=True) if name == encoder]
        parts = [encoder]
        for key in keys:
            said = key.startswith(_ENCODER) and len({repr(other.get(key)) for other in alike}) == 1
            if key in _TASK:
                parts.append(str(values[key]))
            elif key == "env.sensor":
                parts.append(f"trained with {make_task(config.env).sensor}")
            elif key in values and not said:
                parts.append(f"{key}={values[key]}")
        names.append(", ".join(parts))
    return names
