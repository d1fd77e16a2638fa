"""Depth frames on a robot: from what its camera sends to what the policy was trained on, or why not."""

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from defm_rl.deploy.runtime.contract import DepthInput

METRES_PER_UNIT = {"m": 1.0, "mm": 1e-3}
Z_BUFFER = "z-buffer"
"""A task's depth as OpenGL keeps it, from 0 at the near plane to 1 at the far one, where nothing was hit."""

_FARTHEST_M = 100.0  # beyond it all is one to the encoders
_NEAREST_M = 0.01  # no depth camera measures below it


class FrameError(ValueError):
    """A camera's fault: a frame that is empty, stuck or stale. A `safe_action` takes its place where one is given."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes:
        height: Pixels.
        width: Pixels.
        fx: Focal length in pixels, along the width.
        fy: Along the height.
        cx: The optical axis' column, as OpenCV, ROS and RealSense have it: the first pixel's centre is 0.
        cy: Its row.
    """

    height: int
    width: int
    fx: float
    fy: float
    cx: float
    cy: float

    @classmethod
    def from_fov(
        cls, height: int, width: int, horizontal_fov_deg: float, vertical_fov_deg: float | None = None
    ) -> "Camera":
        """A camera whose optical axis is in the middle.

        Args:
            height: Pixels.
            width: Pixels.
            horizontal_fov_deg: From the left edge to the right one.
            vertical_fov_deg: From top to bottom. Default: of square pixels.
        """
        fx = width / 2 / math.tan(math.radians(horizontal_fov_deg) / 2)
        fy = fx if vertical_fov_deg is None else height / 2 / math.tan(math.radians(vertical_fov_deg) / 2)
        return cls(height, width, fx, fy, (width - 1) / 2, (height - 1) / 2)

    @property
    def fov_deg(self) -> tuple[float, float]:
        """Horizontal and vertical field of view."""
        across = math.atan((self.cx + 0.5) / self.fx) + math.atan((self.width - 0.5 - self.cx) / self.fx)
        down = math.atan((self.cy + 0.5) / self.fy) + math.atan((self.height - 0.5 - self.cy) / self.fy)
        return math.degrees(across), math.degrees(down)


class View:
    """Turns a camera's frames into those of another camera in its place that looks the same way.

    Each pixel takes the value of the pixel that looks nearest along its ray, as a renderer samples: depth is never
    mixed across edges, nor with holes. That crops, scales, and moves the optical axis in one.

    Args:
        name: Of the observation, for messages.
        sent: The camera that sends frames.
        wanted: The camera that the policy was trained with.
        outside: "refuse" where the camera does not see all that the policy is used to, or "holes" there.

    Raises:
        ValueError: Where the camera sees too little and that is refused.
    """

    def __init__(self, name: str, sent: Camera, wanted: Camera, outside: str = "refuse") -> None:
        if outside not in ("refuse", "holes"):
            raise ValueError(f"outside must be 'refuse' or 'holes'; got {outside!r}.")
        self.sent = sent
        columns = (np.arange(wanted.width) - wanted.cx) / wanted.fx * sent.fx + sent.cx
        rows = (np.arange(wanted.height) - wanted.cy) / wanted.fy * sent.fy + sent.cy
        self._columns, seen_columns = _nearest(columns, sent.width)
        self._rows, seen_rows = _nearest(rows, sent.height)
        self._unseen = ~(seen_rows[:, None] & seen_columns)
        if self._unseen.any() and outside == "refuse":
            sees, used = ("{:.1f} x {:.1f}".format(*camera.fov_deg) for camera in (sent, wanted))
            raise ValueError(
                f"{name}: the camera sees {sees} degrees, the policy was trained with {used}, and "
                f"{self._unseen.mean():.0%} of its image would be missing. Use a camera that sees more, train with "
                "this one's field of view, or pass outside='holes' to leave holes there."
            )

    def __call__(self, frames: NDArray[Any]) -> NDArray[Any]:
        """(..., H, W) to (..., H', W')."""
        seen = frames[..., self._rows[:, None], self._columns]
        if self._unseen.any():
            seen[..., self._unseen] = 0
        return seen


def _nearest(places: NDArray[np.floating], count: int) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    # A thousandth of a pixel is for rounding, of a field of view that was written down in degrees.
    seen = (places > -0.501) & (places < count - 0.499)
    return np.clip(np.rint(places), 0, count - 1).astype(np.int64), seen


def metres_per_count(unit: str | float) -> float:
    """What one count is worth: of "m", "mm", or a camera's own scale in metres.

    Raises:
        ValueError: For another unit.
    """
    if isinstance(unit, str):
        if unit not in METRES_PER_UNIT:
            raise ValueError(f"depth_unit must be 'm', 'mm', or metres per count as a number; got {unit!r}.")
        return METRES_PER_UNIT[unit]
    if not 0 < unit < math.inf:
        raise ValueError(f"depth_unit must be 'm', 'mm', or a positive number of metres per count; got {unit!r}.")
    return float(unit)


class DepthIntake:
    """What stands between a camera and a policy's depth input.

    Args:
        wanted: The input.
        unit: What the camera sends: "m", "mm" or metres per count; None for what the task's simulator gave.
        camera: The camera that sends frames; None where its frames are as those of the training.
        outside: See `View`.

    Raises:
        ValueError: Where the unit is unknown, or the camera cannot serve.
    """

    def __init__(
        self, wanted: "DepthInput", unit: str | float | None, camera: Camera | None, outside: str = "refuse"
    ) -> None:
        self.wanted = wanted
        given = wanted.sent or wanted.unit
        self._is_z_buffer = unit is None and given == Z_BUFFER
        if unit is None:
            unit = given if given in METRES_PER_UNIT else 1.0 if self._is_z_buffer else float(given)
        self._metres = metres_per_count(unit)
        self._takes_counts = unit != "m" and not self._is_z_buffer
        self.view: View | None = None
        if camera is not None:
            if wanted.camera is None:
                raise ValueError(
                    f"{wanted.name}: the policy's file does not say which camera it was trained with, so that "
                    f"frames of another cannot be fitted to it. Send frames as they were in training, {wanted.size}."
                )
            self.view = View(wanted.name, camera, wanted.camera, outside)

    def __call__(self, given: Any) -> tuple[NDArray[np.float32], bool | None]:
        """Frames as the graph takes them, (B, ...), and whether they came as a batch; None where that cannot be told.

        Raises:
            ValueError: Where type, shape or values are not those of the contract.
        """
        frames = self._checked(np.asarray(given))
        frames, is_batch = self._as_batch(frames)
        metres = self._from_z_buffer(frames) if self._is_z_buffer else frames.astype(np.float32)
        if self._metres != 1.0:
            metres *= np.float32(self._metres)
        if frames.dtype.kind in "iu":
            metres[frames == np.iinfo(frames.dtype).max] = 0.0  # what cameras send for too far and for none
        if self.wanted.max_depth_m is not None:
            metres[metres > self.wanted.max_depth_m] = 0.0
        if self.view is not None:
            metres = self.view(metres)
        self._check_range(metres)
        if self.wanted.metres_per_count != 1.0:
            metres = metres / np.float32(self.wanted.metres_per_count)
        return metres.reshape(-1, *self.wanted.shape), is_batch

    def _from_z_buffer(self, frames: NDArray[Any]) -> NDArray[np.float32]:
        """See `defm_rl.depth.ZBuffer`."""
        wanted = self.wanted
        near_m, far_m = wanted.near_m, wanted.far_m
        assert near_m is not None
        assert far_m is not None
        buffer = frames.astype(np.float32)
        if np.nanmax(buffer, initial=0.0) > 1.0:
            raise ValueError(
                f"{wanted.name}: the task gave a z-buffer, from 0 to 1, and the frame goes up to "
                f"{np.nanmax(buffer):.4g}. If it is metres, make the policy with Policy(path, depth_unit='m')."
            )
        # The far plane, where nothing was hit, is a hole; beyond it the formula is not asked.
        hit = np.where(buffer < 1.0, buffer, 0.0)
        metres = far_m * near_m / (far_m - hit * (far_m - near_m))
        return np.where(buffer < 1.0, metres, 0.0).astype(np.float32)

    def _checked(self, frames: NDArray[Any]) -> NDArray[Any]:
        name = self.wanted.name
        if frames.dtype.kind not in "fiu":
            raise ValueError(f"{name}: depth is numbers; got an array of {frames.dtype}.")
        if frames.dtype.itemsize == 1:
            raise ValueError(
                f"{name}: got {frames.dtype}, an image made for display; send the camera's own depth, of 16 bits or "
                "more."
            )
        if frames.dtype.kind in "iu" and not self._takes_counts:
            raise ValueError(
                f"{name}: got {frames.dtype} counts where metres are expected. If they are millimetres, make the "
                "policy with Policy(path, depth_unit='mm'); else pass metres per count, such as depth_unit=0.00025."
            )
        return frames

    def _as_batch(self, frames: NDArray[Any]) -> tuple[NDArray[Any], bool | None]:
        wanted = self.wanted
        size = wanted.size if self.view is None else (self.view.sent.height, self.view.sent.width)
        singles: tuple[tuple[int, ...], ...]
        if wanted.frames > 1 and wanted.channels_last:
            one = (*size, wanted.frames)
            singles = (one, (1, *one)) if wanted.shape == (1, *one) else (one,)
        elif wanted.frames > 1:
            singles = ((wanted.frames, *size), (wanted.frames, 1, *size))
        else:
            singles = (size, (1, *size), (*size, 1))
        if frames.shape == (1, *singles[0]) and frames.shape in singles:  # one with an axis more, or a batch of one
            return self._planes(frames), None
        for single in singles:
            if frames.shape == single:
                return self._planes(frames[None]), False
            if frames.shape[1:] == single and frames.shape[0] > 0:
                return self._planes(frames), True
        expected = " or ".join(str(single) for single in singles)
        advice = ""
        if self.view is None and frames.ndim >= 2:
            advice = " Of another camera, say which: Policy(path, camera=Camera(height, width, fx, fy, cx, cy))."
        raise ValueError(f"{wanted.name}: expected {expected}, or a batch of them; got {frames.shape}.{advice}")

    def _planes(self, frames: NDArray[Any]) -> NDArray[Any]:
        """As (B, [frames,] H, W): what a view can be put on; stacked frames with channels last stay as they are."""
        if self.wanted.frames > 1:
            if self.view is not None and self.wanted.channels_last:
                raise ValueError(f"{self.wanted.name}: frames stacked along the last axis cannot be cropped.")
            return frames
        size = self.wanted.size if self.view is None else (self.view.sent.height, self.view.sent.width)
        return frames.reshape(len(frames), *size)

    def _check_range(self, metres: NDArray[np.float32]) -> None:
        valid = is_valid(metres)
        count = np.count_nonzero(valid)
        if not count:
            return  # an empty frame, which is another fault
        # Counted before anything is sorted, which takes twice as long as all else here.
        if 2 * np.count_nonzero(valid & (metres > _FARTHEST_M)) >= count:
            median_m = np.median(metres[valid])
            if median_m > _FARTHEST_M:
                raise ValueError(
                    f"{self.wanted.name}: half of the frame is beyond {_FARTHEST_M:.0f} m (its median is "
                    f"{median_m:.0f} m): these look like millimetres taken for metres. Make the policy with "
                    "Policy(path, depth_unit='mm')."
                )
        if not np.count_nonzero(valid & (metres >= _NEAREST_M)):
            raise ValueError(
                f"{self.wanted.name}: nothing in the frame is farther than {metres[valid].max() * 1000:.3f} mm: these "
                "look like metres taken for millimetres. Leave out depth_unit, or pass the right one."
            )


def is_valid(depth: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Which pixels are none of holes: not negative, 0, NaN or infinite."""
    return (depth > 0) & (depth < np.inf)


class FrameWatch:
    """Notices a camera that sends nothing, the same frame again and again, or old frames.

    Args:
        name: Of the observation, for messages.
        min_valid_share: Of the pixels; a frame with fewer is empty.
        stuck_after_s: Seconds for which a frame may stay the same to the last bit; None for any time.
        max_age_s: Seconds that a frame with a time stamp may be old; None for any age.
    """

    def __init__(self, name: str, min_valid_share: float, stuck_after_s: float | None, max_age_s: float | None) -> None:
        self._name, self._min_valid_share = name, min_valid_share
        self._stuck_after_s, self._max_age_s = stuck_after_s, max_age_s
        self.reset()

    def reset(self) -> None:
        """Forgets what came before."""
        self._last: NDArray[Any] | None = None
        self._changed_s: NDArray[np.float64] | None = None

    def watch(self, frames: NDArray[np.float32], now_s: float | None, stamp_s: float | None) -> None:
        """Looks at the frames of one step, (B, ...).

        Raises:
            FrameError: Where one of them cannot be acted upon.
        """
        flat = frames.reshape(len(frames), -1)
        valid = np.count_nonzero(is_valid(flat), axis=1) / flat.shape[1]
        if (valid < self._min_valid_share).any():
            raise FrameError(
                f"{self._name}: {valid.min():.1%} of the pixels are valid, at least {self._min_valid_share:.1%} are "
                "needed: the camera is covered, blinded or disconnected."
            )
        if now_s is None:
            return
        allowed_s = math.inf if self._max_age_s is None else self._max_age_s
        if stamp_s is not None and not abs(now_s - stamp_s) <= allowed_s:
            raise FrameError(
                f"{self._name}: the frame is {now_s - stamp_s:.3f} s old, at most {allowed_s:.3f} s are allowed. "
                "Time stamps must be of the policy's clock: time.monotonic(), or Policy(path, clock=...)."
            )
        self._watch_changes(flat, now_s)

    def _watch_changes(self, flat: NDArray[np.float32], now_s: float) -> None:
        if self._stuck_after_s is None:
            return
        if self._last is None or self._last.shape != flat.shape or self._changed_s is None:
            self._changed_s = np.full(len(flat), now_s)
        else:
            changed = (flat != self._last).any(axis=1)
            self._changed_s[changed] = now_s
        self._last = flat.copy()
        same_s = float((now_s - self._changed_s).max())
        if same_s > self._stuck_after_s:
            raise FrameError(
                f"{self._name}: the same frame for {same_s:.2f} s, to the last bit: the camera or its driver is stuck. "
                "(A simulated camera without noise can stand still: pass stuck_after_s=None there.)"
            )
