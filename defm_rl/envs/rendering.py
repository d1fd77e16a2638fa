"""Depth images of many MuJoCo simulations: by OpenGL without a display (EGL) on a thread pool, or by rays."""

import contextlib
import copy
import ctypes
import functools
import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from defm_rl.names import hint

RENDERERS = ("auto", "egl", "rays")

GEOM_GROUPS_SEEN = (1, 1, 1, 0, 0, 0)
"""The geom groups depth cameras see. A robot's own hull belongs in group 3 or above: then neither renderer shows it."""

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION.value
_logger = logging.getLogger(__name__)


def default_threads() -> int:
    """The number of CPUs this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def far_plane_m(model: Any) -> float:
    """The distance in metres beyond which the cameras of a model see nothing."""
    return float(model.vis.map.zfar * model.stat.extent)


def zero_misses(depth: NDArray[np.float32], far_m: float) -> None:
    """Write 0 wherever nothing was hit, in place.

    Simulators say "nothing" in different ways (-1, infinity, NaN, the far plane); here it is always 0, a hole.

    Args:
        depth: Planar depth in metres, any shape.
        far_m: The far plane in metres; what lies there or beyond counts as nothing.
    """
    # OpenGL gives the far plane back a few units in the last place short of itself; NaN compares as a miss.
    hit = (depth > 0) & (depth < far_m * (1 - 1e-6))
    np.copyto(depth, 0, where=~hit)


class _Eye(ABC):
    """Looks at one simulation after the other through cameras. Made, used and closed in the same thread."""

    def __init__(self, model: Any, cameras: Sequence[int]) -> None:
        self._data = mujoco.MjData(model)
        self._cameras = cameras
        self._far_m = far_plane_m(model)

    def render(self, models: Sequence[Any], states: NDArray[np.float64], outs: Sequence[NDArray[np.float32]]) -> None:
        """Render `models[k]` in state `states[k]` by camera c into `outs[c][k]`, (height, width): metres, holes 0."""
        for k, (model, state) in enumerate(zip(models, states, strict=True)):
            _place(model, self._data, state)
            for c in range(len(self._cameras)):
                self._look(model, c, k)
        for c, out in enumerate(outs):
            self._develop(c, out)
            zero_misses(out, self._far_m)

    @abstractmethod
    def _look(self, model: Any, c: int, frame: int) -> None:
        """Take a raw frame of `self._data` by the camera of index c."""

    @abstractmethod
    def _develop(self, c: int, out: NDArray[np.float32]) -> None:
        """Turn the raw frames of a camera into metres, all at once."""

    @abstractmethod
    def close(self) -> None:
        """Free what the eye holds."""


class _RayEye(_Eye):
    """Casts one ray through the centre of each pixel: no OpenGL needed, several times slower."""

    def __init__(self, model: Any, cameras: Sequence[int], size: tuple[int, int], max_frames: int) -> None:
        super().__init__(model, cameras)
        self._size = size
        self._fans = [_Fan(model.cam_fovy[camera], size) for camera in cameras]
        self._raw = np.empty((len(cameras), max_frames, size[0] * size[1]))
        self._geom_ids = np.empty(size[0] * size[1], np.int32)
        self._groups = np.array(GEOM_GROUPS_SEEN, np.uint8)

    def _look(self, model: Any, c: int, frame: int) -> None:
        camera, depth = self._cameras[c], self._raw[c, frame]
        if self._fans[c].fovy_deg != model.cam_fovy[camera]:
            self._fans[c] = _Fan(model.cam_fovy[camera], self._size)
        fan = self._fans[c]
        rotation = self._data.cam_xmat[camera].reshape(3, 3)
        mujoco.mj_multiRay(
            model,
            self._data,
            pnt=self._data.cam_xpos[camera],
            vec=(fan.rays @ rotation.T).ravel(),
            geomgroup=self._groups,
            flg_static=True,
            bodyexclude=-1,
            geomid=self._geom_ids,
            dist=depth,
            normal=None,
            nray=len(depth),
            cutoff=self._far_m * fan.max_range_per_planar,
        )
        depth *= fan.planar_per_range

    def _develop(self, c: int, out: NDArray[np.float32]) -> None:
        out[:] = self._raw[c, : len(out)].reshape(out.shape)

    def close(self) -> None:
        pass


def look_once(model: Any, camera: int, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """What a camera of a model sees as the model was loaded, by rays.

    Args:
        model: The MuJoCo model.
        camera: The camera's index.
        size: Height and width in pixels.

    Returns:
        Planar depth in metres, 0 where there is nothing, and the index of the geom that each pixel shows, -1 for none;
        both (height, width).
    """
    eye = _RayEye(model, [camera], size, 1)
    mujoco.mj_kinematics(model, eye._data)
    mujoco.mj_camlight(model, eye._data)
    eye._look(model, 0, 0)
    depth = np.empty((1, *size), np.float32)
    eye._develop(0, depth)
    zero_misses(depth, eye._far_m)
    return depth[0], np.where(depth[0] > 0, eye._geom_ids.reshape(size), -1)


class _Fan:
    """The rays through the pixels of a camera that looks along -z, in its own frame."""

    def __init__(self, fovy_deg: float, size: tuple[int, int]) -> None:
        height, width = size
        tan_y = np.tan(np.radians(fovy_deg) / 2)
        right = tan_y / height * (2 * np.arange(width) + 1 - width)
        up = tan_y / height * (height - 1 - 2 * np.arange(height))
        rays = np.stack(np.broadcast_arrays(right, up[:, None], -1.0), axis=-1).reshape(-1, 3)
        length = np.linalg.norm(rays, axis=1)
        self.fovy_deg = fovy_deg
        self.rays = rays / length[:, None]
        self.planar_per_range = 1 / length
        self.max_range_per_planar = length.max()


class _EglEye(_Eye):
    """Draws with an OpenGL context of its own and reads nothing but the depth buffer."""

    def __init__(self, model: Any, cameras: Sequence[int], size: tuple[int, int], max_frames: int) -> None:
        super().__init__(model, cameras)
        self._canvas = EglCanvas(model, size)
        self._raw = np.empty((len(cameras), max_frames, *size), np.float32)
        near, far = np.float32(model.vis.map.znear * model.stat.extent), np.float32(self._far_m)
        # Reversed z: the buffer holds 1 at the near plane and 0 at the far one, and depth = scale / (value + shift).
        self._scale, self._shift = far * near / (far - near), near / (far - near)

    def _look(self, model: Any, c: int, frame: int) -> None:
        self._canvas.draw(model, self._data, self._cameras[c])
        self._canvas.read(depth=self._raw[c, frame])

    def _develop(self, c: int, out: NDArray[np.float32]) -> None:
        np.add(self._raw[c, : len(out), ::-1], self._shift, out=out)  # OpenGL's first row is the lowest
        np.divide(self._scale, out, out=out)

    def close(self) -> None:
        self._canvas.close()


def _place(model: Any, data: Any, state: NDArray[np.float64]) -> None:
    """Put everything that can be seen where a state has it."""
    mujoco.mj_setState(model, data, state, _STATE)
    mujoco.mj_kinematics(model, data)
    mujoco.mj_camlight(model, data)


class EglCanvas:
    """An OpenGL context without a window. It belongs to the thread that made it, which must also close it.

    Args:
        model: Whose assets to upload. Models drawn later may differ in their numbers, not in their assets.
        size: Height and width in pixels.
        depth_only: Draw flat, which is faster and gives more exact depth; False for pictures in colour.
    """

    def __init__(self, model: Any, size: tuple[int, int], *, depth_only: bool = True) -> None:
        # Mesa's software renderer would start threads of its own beside ours; read when it makes its first context.
        os.environ.setdefault("LP_NUM_THREADS", "0")
        # Taken directly, so that it works whatever MUJOCO_GL was when mujoco was imported.
        import_triton()
        from mujoco.egl import GLContext

        model = copy.copy(model)
        height, width = size
        model.vis.global_.offheight, model.vis.global_.offwidth = size
        if depth_only:
            model.vis.quality.offsamples = model.vis.quality.shadowsize = 0
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._option = mujoco.MjvOption()
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 100)
        if depth_only:
            self._option.geomgroup[:] = GEOM_GROUPS_SEEN
            self._option.sitegroup[:] = self._option.tendongroup[:] = 0  # rays hit neither
            self._scene.flags[:] = 0
            for flag in (
                mujoco.mjtRndFlag.mjRND_SEGMENT,
                mujoco.mjtRndFlag.mjRND_IDCOLOR,
                mujoco.mjtRndFlag.mjRND_CULL_FACE,
            ):
                self._scene.flags[flag] = True
        else:
            self._option.geomgroup[:] = 1
        self._camera = mujoco.MjvCamera()
        self._camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._gl = GLContext(width, height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50.value)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        if depth_only:
            _write_no_colour()

    def draw(self, model: Any, data: Any, camera: int) -> None:
        """Draw what a camera of the model sees."""
        self._camera.fixedcamid = camera
        everything = mujoco.mjtCatBit.mjCAT_ALL.value
        mujoco.mjv_updateScene(model, data, self._option, None, self._camera, everything, self._scene)
        mujoco.mjr_render(self._rect, self._scene, self._context)

    def read(self, rgb: NDArray[np.uint8] | None = None, depth: NDArray[np.float32] | None = None) -> None:
        """Copy out what was drawn, lowest row first: colour (height, width, 3), depth buffer (height, width)."""
        mujoco.mjr_readPixels(rgb, depth, self._rect, self._context)

    def close(self) -> None:
        """Free the context."""
        self._context.free()
        self._gl.free()


def _write_no_colour() -> None:
    """Have the current context draw depth alone, which saves software OpenGL a sixth of its time."""
    from mujoco.egl import egl_ext

    color_mask = ctypes.CFUNCTYPE(None, *[ctypes.c_ubyte] * 4)(egl_ext.eglGetProcAddress("glColorMask"))
    color_mask(0, 0, 0, 0)


class DepthRenderer:
    """Renders cameras in many simulations, on threads that each keep an eye of their own.

    Args:
        renderer: "egl", "rays", or "auto": EGL where OpenGL is there, else rays with one warning.
        model: The model all simulations share. Its far plane (`zfar * extent`) is where sight ends.
        cameras: Names of the cameras.
        size: Height and width in pixels, of every camera.
        max_frames: The most simulations in one call of `render`.
        threads: Number of threads.

    Attributes:
        name: "egl" or "rays", what it came to be.

    Raises:
        ValueError: No such renderer.
        RuntimeError: "egl" was asked for and there is none.
    """

    def __init__(
        self,
        renderer: str,
        model: Any,
        cameras: Sequence[str],
        size: tuple[int, int],
        max_frames: int,
        threads: int,
    ) -> None:
        if renderer not in RENDERERS:
            raise ValueError(f"unknown renderer {renderer!r}{hint(renderer, RENDERERS)}")
        threads = max(1, min(threads, max_frames))
        self._threads = [ThreadPoolExecutor(1, f"depth-{k}") for k in range(threads)]
        per_thread = -(-max_frames // threads)
        arguments = (model, [model.camera(name).id for name in cameras], size, per_thread)
        self.name = renderer
        if renderer in ("auto", "egl"):
            try:
                self._eyes: list[_Eye] = self._make_eyes(lambda: _EglEye(*arguments))
                self.name = "egl"
            except Exception as error:  # missing libraries, drivers or devices fail each in their own way
                if renderer == "egl":
                    self._stop_threads()
                    raise RuntimeError(_no_egl(error)) from error
                _warn_once(_no_egl(error) + "; depth is drawn by rays, which is several times slower")
                self.name = "rays"
        if self.name == "rays":
            self._eyes = self._make_eyes(lambda: _RayEye(*arguments))

    def render(self, models: Sequence[Any], states: NDArray[np.float64], outs: Sequence[NDArray[np.float32]]) -> None:
        """Render each model in its state.

        Args:
            models: n models, one per simulation.
            states: (n, nstate), rows as in `mujoco.batch.Batch.state`.
            outs: For each camera (n, height, width) float32; gets planar depth in metres, 0 where there is nothing.
        """
        jobs: list[Future[None]] = []
        bounds = np.linspace(0, len(models), len(self._eyes) + 1).astype(int)
        for thread, eye, start, stop in zip(self._threads, self._eyes, bounds[:-1], bounds[1:], strict=True):
            if start < stop:
                mine = [out[start:stop] for out in outs]
                jobs.append(thread.submit(eye.render, models[start:stop], states[start:stop], mine))
        for job in jobs:
            job.result()

    def close(self) -> None:
        """Free every context in its own thread, then end the threads."""
        for thread, eye in zip(self._threads, self._eyes, strict=True):
            thread.submit(eye.close).result()
        self._stop_threads()

    def _make_eyes(self, make: Callable[[], _Eye]) -> list[_Eye]:
        # One after the other: the first one initialises EGL for the whole process.
        return [thread.submit(make).result() for thread in self._threads]

    def _stop_threads(self) -> None:
        for thread in self._threads:
            thread.shutdown()


class PictureRenderer:
    """Colour pictures of simulations, by one camera, drawn on a thread of its own.

    Args:
        model: The model all simulations share.
        camera: Name of the camera.
        size: Height and width in pixels.

    Raises:
        RuntimeError: There is no OpenGL.
    """

    def __init__(self, model: Any, camera: str, size: tuple[int, int] = (480, 640)) -> None:
        self._size = size
        self._camera = model.camera(camera).id
        self._data = mujoco.MjData(model)
        self._thread = ThreadPoolExecutor(1, "picture")
        try:
            self._canvas = self._thread.submit(EglCanvas, model, size, depth_only=False).result()
        except Exception as error:
            self._thread.shutdown()
            raise RuntimeError(_no_egl(error)) from error

    def render(self, model: Any, state: NDArray[np.float64]) -> NDArray[np.uint8]:
        """Draw a model in a state: uint8 (height, width, 3)."""
        return self._thread.submit(self._render, model, state).result()

    def _render(self, model: Any, state: NDArray[np.float64]) -> NDArray[np.uint8]:
        _place(model, self._data, state)
        picture = np.empty((*self._size, 3), np.uint8)
        self._canvas.draw(model, self._data, self._camera)
        self._canvas.read(rgb=picture)
        return np.ascontiguousarray(picture[::-1])

    def close(self) -> None:
        """Free the context in its own thread, then end the thread."""
        self._thread.submit(self._canvas.close).result()
        self._thread.shutdown()


@functools.cache
def import_triton() -> None:
    """Imports triton where it is installed: after Mesa has loaded its LLVM, triton's own would crash the process.

    PyTorch imports triton with the first optimizer, usually after the environments have been made.
    """
    with contextlib.suppress(ImportError):
        import triton  # noqa: F401


def _no_egl(error: Exception) -> str:
    return (
        f"OpenGL through EGL is not usable here ({type(error).__name__}: {error}); "
        "on Debian or Ubuntu: apt install libegl1 libegl-mesa0 libgl1-mesa-dri"
    )


@functools.cache
def _warn_once(message: str) -> None:
    _logger.warning(message)
