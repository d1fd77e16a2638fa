"""What a command line asks for: the overrides of one run, or those of each run of a sweep."""

import copy
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from hydra import compose, initialize_config_module
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from defm_rl.experiments.config import (
    CONF_MODULE,
    GROUPS,
    SEARCH_PATH,
    ConfigError,
    compose_config,
    is_free,
    known_keys,
    register,
    suggest,
    with_free_keys,
)


def check_overrides(
    overrides: Sequence[str],
    zipped: Sequence[Sequence[str]] = (),
    make: Callable[[DictConfig], Any] = copy.deepcopy,
) -> list[Any]:
    """The configurations that a command line asks for; of a sweep, as many as have each value once.

    Args:
        overrides: The command line.
        zipped: See `axes`.
        make: Makes of each configuration, which holds until the next one is made, what is returned in its place.

    Raises:
        ConfigError: Where overrides do not fit.
    """
    parser = OverridesParser.create()
    keys = known_keys()
    given = []
    for text in overrides:
        try:
            override = parser.parse_override(text)
        except HydraException as error:
            raise ConfigError(f"{text!r} is not of the form key=value: {error}") from error
        if override.is_hydra_override() and override.key_or_group != SEARCH_PATH:
            continue
        key = override.key_or_group
        if key not in keys and not is_free(key):  # Hydra would add what begins with a plus sign
            raise ConfigError(f"{text!r}: there is no key {key!r}.{suggest(key, keys)}")
        if override.is_sweep_override() and not override.is_discrete_sweep():
            continue  # a sweeper's own syntax: it will check the values
        given.append(override)
    choices = axes(given, zipped)
    first = [options[0] for options in choices]
    jobs = [first] + [
        [*first[:index], option, *first[index + 1 :]] for index, options in enumerate(choices) for option in options[1:]
    ]
    register()
    GlobalHydra.instance().clear()
    with initialize_config_module(CONF_MODULE, version_base="1.3"):
        try:
            return [
                make(composed)
                for _, composed in compose_many(
                    (list(itertools.chain(*job)) for job in jobs),
                    lambda texts: compose("config", with_free_keys(texts)),
                )
            ]
        except (HydraException, OmegaConfBaseException):
            pass
    return [make(compose_config(list(itertools.chain(*job)))) for job in jobs]  # which says what to write


def axes(overrides: Sequence[Override], zipped: Sequence[Sequence[str]] = ()) -> list[list[list[str]]]:
    """What a sweep goes through: the product of its axes is its runs.

    Args:
        overrides: Of the command line.
        zipped: Groups of keys that go through their values together.

    Returns:
        For each axis its choices, each of them overrides of one value; what is not swept is an axis of one choice.

    Raises:
        ConfigError: Where keys that are to be zipped are not swept, or have different numbers of values.
    """
    choices: dict[str, list[str]] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            choices[key] = [override.input_line or ""]
        elif override.is_discrete_sweep():
            choices[key] = [f"{key}={value}" for value in override.sweep_string_iterator()]
        else:
            raise ConfigError(f"{override.input_line!r} is no list of values: hydra/sweeper=optuna searches ranges.")
    for keys in zipped:
        _check_zipped(keys, choices)
    first = {keys[0]: keys for keys in zipped}
    others = {key for keys in zipped for key in keys[1:]}
    return [
        [list(choice) for choice in zip(*(choices[name] for name in first.get(key, [key])), strict=True)]
        for key in choices
        if key not in others
    ]


def _check_zipped(keys: Sequence[str], choices: Mapping[str, Sequence[str]]) -> None:
    for key in keys:
        if key not in choices:
            raise ConfigError(f"zip={list(keys)}: {key} has no values.{suggest(key, list(choices))}")
    counts = {key: len(choices[key]) for key in keys}
    if len(set(counts.values())) != 1:
        raise ConfigError(f"zip={list(keys)} pairs the first values, the second ones, and so on; there are {counts}.")


def product(of: Sequence[Sequence[Sequence[str]]]) -> list[list[str]]:
    """The overrides of each run, the last axis changing first."""
    return [list(itertools.chain(*choices)) for choices in itertools.product(*of)]


def compose_many(
    jobs: Iterable[Sequence[str]], compose: Callable[[list[str]], DictConfig]
) -> Iterator[tuple[Sequence[str], DictConfig]]:
    """Composes a configuration for each of many jobs; each is valid until the next one is asked for.

    Hydra takes tenths of a second for each. Options (`encoder=cnn`) are composed once in each of their combinations;
    values are then set as Hydra does.

    Args:
        jobs: The overrides of each.
        compose: Makes of overrides a configuration.
    """
    parser = OverridesParser.create()
    parsed: dict[str, Override] = {}
    bases: dict[tuple[str, ...], tuple[DictConfig, dict[str, str]]] = {}
    for overrides in jobs:
        for text in overrides:
            if text not in parsed:
                parsed[text] = parser.parse_override(text)
        options = tuple(text for text in overrides if not _is_value(parsed[text]))
        if options not in bases:
            bases[options] = (compose(list(options)), {})
        config, has = bases[options]
        for text in overrides:
            key = parsed[text].key_or_group
            if text not in options and has.get(key) != text:
                OmegaConf.update(config, key, parsed[text].value(), merge=True)
                has[key] = text
        yield overrides, config


def _is_value(override: Override) -> bool:
    """Whether an override sets a key that is always there, to something that takes the place of what it was."""
    key = override.key_or_group
    plain = not (override.is_add() or override.is_force_add() or override.is_delete() or override.is_hydra_override())
    return plain and key not in (*GROUPS, "experiment") and not is_free(key) and not isinstance(override.value(), dict)
