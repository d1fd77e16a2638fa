"""The configuration that a run was made with, as config.yaml has it, read by the version of today."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from defm_rl.experiments.config import (
    GROUPS,
    Config,
    ConfigError,
    compose_config,
    explain,
    group_options,
    is_free,
    keys_below,
    option_of,
    schema_of,
)
from defm_rl.experiments.quiet import log_once


def read_config(path: Path, overrides: Sequence[str] = (), settled: Mapping[str, Any] | None = None) -> DictConfig:
    """A run's configuration with what is changed since; today's defaults are taken only for what it does not have.

    Args:
        path: The run's config.yaml.
        overrides: As on the command line. An option such as `logger=wandb` is that of today, all its keys together.
        settled: Values by dotted key that the run settled on, below the overrides.

    Raises:
        ConfigError: Where the file cannot be read, says what cannot be any more, or an override does not fit.
    """
    saved = _load(path)
    schemas = {group: _schema(path, saved, group) for group in GROUPS}
    config = OmegaConf.structured(Config(**{group: schema() for group, schema in schemas.items()}))
    leaves = _leaves(schemas)
    known, had = (_flat(OmegaConf.to_container(tree), leaves) for tree in (config, saved))
    for key, value in {**had, **(settled or {})}.items():
        if key not in known:
            continue
        try:
            OmegaConf.update(config, key, value)
        except OmegaConfBaseException as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{path} has {key}={value}, which is no value for it any more: {reason}") from error
    _tell(path, "holds settings that this version does not know, and ignores", had, known)
    _tell(path, "is older than these settings, whose defaults are taken", known, had)
    _apply(config, overrides)
    return config


def options_of(path: Path) -> list[str]:
    """The options that decide which keys a run has, as overrides: `env=navigation`, `algo=ppo`."""
    saved = _load(path)
    return [f"{group}={option_of(_schema(path, saved, group))}" for group in ("env", "algo")]


def _leaves(schemas: Mapping[str, type]) -> set[str]:
    """The dotted keys that have values; a dictionary that a key takes, such as `env.kwargs`, is one value."""
    keys = []
    for entry in dataclasses.fields(Config):
        kind: Any = schemas.get(entry.name, entry.type)
        nested = isinstance(kind, type) and dataclasses.is_dataclass(kind)
        keys += [entry.name, *(keys_below(entry.name, kind) if nested else ())]
    return {key for key in keys if not any(other.startswith(f"{key}.") for other in keys)}


def _flat(tree: Any, leaves: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries by dotted keys, down to the leaves that are known, and whatever else there is."""
    if prefix in leaves or not isinstance(tree, dict):
        return {prefix: tree}
    parts = (_flat(part, leaves, f"{prefix}.{name}".lstrip(".")) for name, part in tree.items())
    return {key: value for part in parts for key, value in part.items()}


def _load(path: Path) -> DictConfig:
    try:
        saved = OmegaConf.load(path)
    except (OSError, yaml.YAMLError, OmegaConfBaseException) as error:
        raise ConfigError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    missing = [group for group in GROUPS if group not in saved]
    if missing:
        raise ConfigError(f"{path} is no run's configuration: it has no {missing[0]}.")
    assert isinstance(saved, DictConfig)
    return saved


def _schema(path: Path, saved: DictConfig, group: str) -> type:
    try:
        return schema_of(group, saved[group])
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def _tell(path: Path, what: str, these: Mapping[str, Any], others: Mapping[str, Any]) -> None:
    found = [f"{key}={value}" for key, value in these.items() if key not in others]
    if found:
        log_once(f"{path} {what}: {', '.join(found)}.")


def _apply(config: DictConfig, overrides: Sequence[str]) -> None:
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        key, text = override.key_or_group, str(override.input_line)
        if override.is_delete() or key == "experiment":
            raise ConfigError(f"{text!r} says how a run begins: to go on with one, set single keys.")
        if key in GROUPS:
            named = [f"experiment={config.experiment}"] if config.experiment in group_options("experiment") else []
            # Another schema, of another task or algorithm, takes the place of the run's.
            config[key] = compose_config([*named, text])[key]
            continue
        try:
            OmegaConf.update(config, key, override.value(), merge=True, force_add=is_free(key))
        except OmegaConfBaseException as error:
            raise ConfigError(explain(error, [text])) from error
