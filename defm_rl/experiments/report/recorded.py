"""Recorded depth for the experiments' commands: `defm_rl.recordings`, whose refusals are those of a setting here."""

from pathlib import Path

from defm_rl import recordings
from defm_rl.depth import Unit
from defm_rl.experiments.config import refused_settings
from defm_rl.recordings import Recording, files

__all__ = ["Recording", "check_source", "depth_files", "load_recorded"]


def load_recorded(
    path: str | Path,
    size: tuple[int, int],
    *,
    unit: Unit | None = None,
    max_depth_m: float | None = None,
    limit: int | None = None,
) -> Recording:
    """See `defm_rl.recordings.load_recording`.

    Raises:
        ConfigError: Where there is no such source, no depth in it, or none that can be read; or the unit or limit is
            none.
    """
    with refused_settings():
        return recordings.load_recording(path, size, unit=unit, max_depth_m=max_depth_m, limit=limit)


def check_source(path: str | Path) -> None:
    """Looks whether there is depth in a source.

    Raises:
        ConfigError: Where there is none.
    """
    with refused_settings():
        recordings.find_parts(path)


def depth_files(path: Path) -> list[Path]:
    """The files of depth at a path, by name.

    Raises:
        ConfigError: Where there are none.
    """
    with refused_settings():
        return files.depth_files(path)
