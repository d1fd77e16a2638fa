"""What is said after a command: names first, then settings as key=value, without any library to parse them."""

import dataclasses
from collections.abc import Sequence
from typing import Any, TypeVar

from defm_rl.errors import UserError
from defm_rl.names import hint

T = TypeVar("T")


class UsageError(UserError, ValueError):
    """A command line that cannot be, with what to write instead."""


def parse(schema: type[T], arguments: Sequence[str], names: Sequence[str]) -> tuple[list[str], T]:
    """The named things and the settings of a command line.

    Args:
        schema: A dataclass of settings, each with a default of its type: text, a number, yes or no, or a tuple of them.
        arguments: The command line.
        names: What has to be named, in this order; what stands in brackets may be left out.

    Raises:
        UsageError: For an unknown key, a value that does not fit, or another number of names.
    """
    settings = [text for text in arguments if "=" in text]
    named = [text for text in arguments if "=" not in text]
    if not sum(not name.startswith("[") for name in names) <= len(named) <= len(names):
        raise UsageError(f"expected {' '.join(names)}, got {' '.join(named) or 'nothing'}")
    defaults = {entry.name: entry.default for entry in dataclasses.fields(schema)}  # type: ignore[arg-type]
    values = {}
    for text in settings:
        key, _, value = text.partition("=")
        if key not in defaults:
            raise UsageError(f"{text!r}: there is no key {key!r}{hint(key, defaults)}")
        values[key] = _converted(key, value, defaults[key])
    return named, schema(**values)


def usage(command: str, names: Sequence[str], schema: Any, summary: str) -> str:
    """What `--help` prints."""
    lines = [f"  {name}={_as_text(value)}" for name, value in vars(schema()).items()]
    head = f"usage: defm-rl {command} {' '.join(names)} [key=value ...]"
    return "\n".join([head, "", summary.strip(), "", "keys and defaults:", *lines, ""])


def _converted(key: str, text: str, default: Any) -> Any:
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(default, tuple):
            parts = text.strip("[]()").replace("x", ",").split(",")
            if len(parts) != len(default):
                raise ValueError(f"{len(default)} numbers were expected")
            return tuple(type(kind)(part) for part, kind in zip(parts, default, strict=True))
        return type(default)(text)
    except (KeyError, ValueError) as error:
        raise UsageError(f"{key}={text}: expected something like {key}={_as_text(default)}") from error


def _as_text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
