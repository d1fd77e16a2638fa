"""Ending early on Ctrl-C and on SIGTERM alike, with what was done kept."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

INTERRUPTED = 130  # the exit status that shells use for Ctrl-C


def stop_on_sigterm() -> None:
    """A cluster's scheduler asks a job to end by SIGTERM: treat it as Ctrl-C, so that it can go on later."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if _in_main_thread():
        signal.signal(signal.SIGTERM, interrupt)


class Interruption:
    """Within its `with`, the first Ctrl-C or SIGTERM is a KeyboardInterrupt, and those that follow are nothing.

    What is begun because of the first, such as saving, is so done to its end however often a user or a scheduler asks.
    """

    def __init__(self) -> None:
        self._came = self._raised = self._deferred = False
        self._cleanup = contextlib.ExitStack()

    def __enter__(self) -> "Interruption":
        if _in_main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                if signal.getsignal(number) != signal.SIG_IGN:  # as a shell has it for what runs in the background
                    former = signal.signal(number, self._on_signal)
                    self._cleanup.callback(signal.signal, number, former or signal.SIG_DFL)
        return self

    def __exit__(self, *_: object) -> None:
        self._cleanup.close()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Keeps an interruption back until what is inside is done."""
        self._deferred = True
        try:
            yield
        finally:
            self._deferred = False
        self._act()

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._came = True
        self._act()

    def _act(self) -> None:
        if self._came and not self._raised and not self._deferred:
            self._raised = True
            raise KeyboardInterrupt


def _in_main_thread() -> bool:
    """Elsewhere Python sets no handlers: whoever runs us there handles its own signals."""
    return threading.current_thread() is threading.main_thread()
