"""Packages that bring encoders, tasks, sensors and experiments of their own, found by their entry points."""

import importlib.metadata
import logging
from functools import cache
from typing import Any

_logger = logging.getLogger(__name__)


@cache
def load_plugins(group: str) -> tuple[Any, ...]:
    """Imports what installed packages have registered under an entry point group, once in each process.

    An entry point names a module, which registers what it brings when it is imported, or a function without arguments,
    which does so when it is called. What fails is named in the log, and the others go on.

    Args:
        group: Such as "defm_rl.encoders".

    Returns:
        What could be loaded: modules, and what functions have returned.
    """
    loaded = []
    for entry in sorted(importlib.metadata.entry_points(group=group), key=lambda entry: entry.name):
        try:
            named = entry.load()
            loaded.append(named() if callable(named) else named)
        except Exception as error:  # whatever others' code raises
            package = entry.dist.name if entry.dist else "an installed package"
            _logger.warning(
                "The plugin %s = %s of %s (%s) is left out: %s: %s",
                entry.name,
                entry.value,
                package,
                group,
                type(error).__name__,
                error,
            )
    return tuple(loaded)
