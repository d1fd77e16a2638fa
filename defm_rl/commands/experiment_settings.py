"""Settings of the commands for experiments, typed by OmegaConf as the experiments' own keys are."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from defm_rl.experiments.config import ConfigError, refused_settings, suggest
from defm_rl.sensors import SENSORS, list_sensors, make_sensor

T = TypeVar("T")


def parse(schema: type[T], overrides: Sequence[str], *, also: Sequence[str] = ()) -> T:
    """A dataclass from `key=value` strings.

    Args:
        schema: The dataclass.
        overrides: The strings.
        also: Further keys to suggest, which somebody else reads.

    Raises:
        ConfigError: For an unknown key, or a value that does not fit.
    """
    names = keys(schema)
    for override in overrides:
        key = override.partition("=")[0]
        if key not in names:
            raise ConfigError(f"{override!r}: there is no key {key!r}.{suggest(key, [*names, *also])}")
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), OmegaConf.from_dotlist(list(overrides)))
    except OmegaConfBaseException as error:
        raise ConfigError(str(error).splitlines()[0]) from error
    return cast(T, OmegaConf.to_object(merged))


def usage(command: str, schema: Any, summary: str) -> str:
    """What `--help` prints: the command, and every key with its default."""
    defaults = vars(schema())
    lines = [f"  {name}={'null' if value is None else value}" for name, value in defaults.items()]
    return "\n".join([f"usage: {command} [key=value ...]", "", summary.strip(), "", "keys and defaults:", *lines, ""])


def keys(schema: type) -> list[str]:
    """What a schema has."""
    return [entry.name for entry in dataclasses.fields(schema)]


def sensor_names(chosen: Any) -> list[str]:
    """`all`, one name or a list of names as a list, each once; a name may be without a part, see `make_sensor`.

    Raises:
        ConfigError: For a sensor that does not exist.
    """
    if chosen == "all":
        return list_sensors()
    list_sensors()  # those of installed packages are there from here on
    names = [str(name) for name in chosen] if isinstance(chosen, list) else [str(chosen)]
    for name in names:
        whole, _, part = name.partition("_without_")
        if whole in SENSORS and part:
            with refused_settings():
                make_sensor(name)
        elif whole not in SENSORS:
            near = suggest(name, list(SENSORS))
            raise ConfigError(f"sensors={name}: there is no such sensor.{near} There is: all, {', '.join(SENSORS)}.")
    if not names:
        raise ConfigError("sensors=[] names no sensor: sensors=all takes all of them.")
    return list(dict.fromkeys(names))


def at_least(**limits: tuple[int, int]) -> None:
    """Raises a ConfigError for the first setting that is below its limit; each is given as (value, limit)."""
    for name, (value, limit) in limits.items():
        if value < limit:
            raise ConfigError(f"{name} must be at least {limit}, got {value}.")
