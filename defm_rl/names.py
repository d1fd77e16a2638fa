"""Error messages that name what was probably meant."""

import difflib
from collections.abc import Iterable


def hint(name: object, names: Iterable[str]) -> str:
    """Say which of the names is nearest, and which there are: the end of an error message."""
    names = list(names)
    close = difflib.get_close_matches(str(name), names, 1)
    return f"{f', did you mean {close[0]!r}?' if close else ''} (there are {', '.join(names)})"
