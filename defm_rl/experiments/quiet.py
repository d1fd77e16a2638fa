"""Saying less: what libraries print goes to the log, and what is found again and again is said once."""

import contextlib
import functools
import io
import logging
from collections.abc import Iterator

_logger = logging.getLogger(__name__)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Sends what is printed meanwhile to the log, at level DEBUG."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        yield
    _logger.debug(printed.getvalue())


@functools.cache
def log_once(message: str, level: int = logging.INFO) -> None:
    """Logs what would otherwise be said whenever a run is looked at."""
    _logger.log(level, message)
