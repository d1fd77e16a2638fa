"""The same for Rerun's viewer, which knows depth: an .rrd file. It needs the extra [rerun]."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from defm_rl.experiments.config import ConfigError
from defm_rl.experiments.view.looks import Look


def write_rerun(path: Path, title: str, looks: Mapping[str, Sequence[Look]]) -> None:
    """Writes a recording: depth in metres, the three channels and the maps' colours, by camera, over the frames.

    Raises:
        ConfigError: Where Rerun is not installed.
    """
    try:
        import rerun
    except ImportError as error:
        raise ConfigError(f"an .rrd file needs rerun-sdk ({error}): pip install 'defm-rl[rerun]'") from error
    path.parent.mkdir(parents=True, exist_ok=True)
    recording: Any = rerun.RecordingStream(f"defm-rl view {title}")
    recording.save(path)
    for camera, seen in looks.items():
        entity = camera.replace(" ", "_")
        for index, look in enumerate(seen):
            recording.set_time("frame", sequence=index)
            recording.log(f"{entity}/depth", rerun.DepthImage(look.depth, meter=1.0))
            for channel in range(3):
                picture = np.ascontiguousarray(look.channels[..., channel])
                recording.log(f"{entity}/channels/{channel + 1}", rerun.Image(picture))
            for level, cells in look.maps.items():
                recording.log(f"{entity}/{level}", rerun.Image(cells.colours))
    recording.disconnect()
