"""What the commands have in common: where they talk, `--help`, and mistakes of the user's."""

import functools
import logging
import sys
from collections.abc import Callable, Sequence

from defm_rl.errors import UserError

Main = Callable[[Sequence[str]], int]


def command(name: str, usage: Callable[[], str], *errors: type[Exception]) -> Callable[[Main], Main]:
    """Makes a command's `main` of what it does.

    With `--help` among its arguments it prints its usage and does nothing. A mistake of the user's is a message on
    stderr, and the exit status 2.

    Args:
        name: The command's.
        usage: What `--help` prints.
        *errors: What counts as the user's mistake besides every `UserError`.
    """
    mistakes: tuple[type[Exception], ...] = (UserError, *errors)

    def decorate(main: Main) -> Main:
        @functools.wraps(main)
        def run(arguments: Sequence[str]) -> int:
            log_to_stdout()
            if {"-h", "--help"} & set(arguments):
                sys.stdout.write(usage())
                return 0
            try:
                return main(arguments)
            except mistakes as error:
                sys.stderr.write(f"defm-rl {name}: {error}\n")
                return 2

        return run

    return decorate


def log_to_stdout() -> None:
    """Shows what this library says, and of others warnings alone: SciPy and OpenGL tell much that nobody asked for."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout)
    logging.getLogger("defm_rl").setLevel(logging.INFO)
