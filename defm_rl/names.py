"""Names, and error messages that say which was probably meant."""

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

T = TypeVar("T")


def hint(name: object, names: Iterable[str]) -> str:
    """Say which of the names is nearest, and which there are: the end of an error message."""
    names = list(names)
    close = difflib.get_close_matches(str(name), names, 1)
    return f"{f', did you mean {close[0]!r}?' if close else ''} (there are {', '.join(names)})"


def look_up(kind: str, name: str, things: Mapping[str, T]) -> T:
    """What has a name.

    Args:
        kind: What it is called in an error.
        name: Its name.
        things: All that there are.

    Raises:
        ValueError: There is none of that name.
    """
    if name in things:
        return things[name]
    raise ValueError(f"unknown {kind} {name!r}{hint(name, things)}")
