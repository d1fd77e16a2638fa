"""Where depth frames come from on a robot, all behind one thin interface."""

import time
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from defm_rl.deploy import Camera


class Source(Protocol):
    """A depth camera.

    Attributes:
        camera: Its intrinsics; None where its frames are those of the training's camera.
        unit: What its frames are in: "m", "mm", or metres per count.
        outside: What to do where it sees less than the training's camera did: "refuse" or "holes".
    """

    camera: Camera | None
    unit: str | float
    outside: str

    def frame(self) -> tuple[NDArray[Any], float]:
        """The newest frame, (H, W), and when it was taken by `time.monotonic()`."""


class MadeUp:
    """A corridor with noise, for trying out a loop without a camera."""

    camera: Camera | None = None
    unit: str | float = "m"
    outside = "refuse"

    def __init__(self, height: int, width: int) -> None:
        self._depth = np.broadcast_to(1.0 + 4.0 * np.abs(np.linspace(-1, 1, width)), (height, width))
        self._random = np.random.default_rng(0)

    def frame(self) -> tuple[NDArray[Any], float]:
        """The corridor."""
        noise = self._random.normal(0.0, 0.02, self._depth.shape)
        return (self._depth + noise).astype(np.float32), time.monotonic()


class Recorded:
    """Recorded frames, again and again.

    Args:
        frames: (N, H, W), metres.
    """

    camera: Camera | None = None
    unit: str | float = "m"
    outside = "refuse"

    def __init__(self, frames: NDArray[Any]) -> None:
        self._frames, self._next = frames, 0

    def frame(self) -> tuple[NDArray[Any], float]:
        """The next one."""
        frame = self._frames[self._next % len(self._frames)]
        self._next += 1
        return frame, time.monotonic()


class RealSense:
    """An Intel RealSense, by pyrealsense2 (`pip install pyrealsense2`).

    Args:
        height: Of the depth stream.
        width: Of the depth stream.
        rate_hz: Frames per second.
        outside: See `Source`.
        library: pyrealsense2, or what stands in for it.
    """

    def __init__(
        self, height: int = 480, width: int = 848, rate_hz: int = 30, outside: str = "refuse", library: Any = None
    ) -> None:
        if library is None:
            import pyrealsense2 as library  # type: ignore[import-not-found,no-redef]
        self._pipeline = library.pipeline()
        config = library.config()
        config.enable_stream(library.stream.depth, width, height, library.format.z16, rate_hz)
        profile = self._pipeline.start(config)
        stream = profile.get_stream(library.stream.depth).as_video_stream_profile()
        lens = stream.get_intrinsics()
        self.camera: Camera | None = Camera(lens.height, lens.width, lens.fx, lens.fy, lens.ppx, lens.ppy)
        # 0.001 of a D435, 0.0001 of a D405: the device says it.
        self.unit: str | float = float(profile.get_device().first_depth_sensor().get_depth_scale())
        self.outside = outside

    def frame(self) -> tuple[NDArray[Any], float]:
        """Waits for the next frame. Its age since it came is what can be known without the device's clock."""
        depth = self._pipeline.wait_for_frames().get_depth_frame()
        return np.asanyarray(depth.get_data()), time.monotonic()
