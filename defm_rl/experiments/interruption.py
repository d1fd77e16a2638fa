"""Ending early on Ctrl-C and on SIGTERM alike, with what was done kept."""

import signal
from types import FrameType

INTERRUPTED = 130  # the exit status that shells use for Ctrl-C


def stop_on_sigterm() -> None:
    """A cluster's scheduler asks a job to end by SIGTERM: treat it as Ctrl-C, so that it can go on later."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread: whoever runs it there handles its own signals
        return
