"""Libraries that print what they make: into the log, for those who look there."""

import contextlib
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
