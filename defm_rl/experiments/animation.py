"""Episodes as an animation: what the robot sees beside a map or a picture of what it does."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # files only: no window, on machines without a display too

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Circle, Rectangle
from matplotlib.transforms import Affine2D
from PIL import Image

from defm_rl.encoders import DepthEncoder
from defm_rl.experiments import environments
from defm_rl.experiments.config import Config
from defm_rl.experiments.episodes import Policy, run_episodes
from defm_rl.experiments.recording import Recording, filmed

FRAME_MS = 100  # real time for most tasks; navigation runs twice as fast
PAUSE_MS = 900  # on an episode's last frame
WIDTH_IN, HEIGHT_IN = 8.4, 3.1
ASPECT = WIDTH_IN / HEIGHT_IN
FAR_M = 6.0  # depth from here on, at the latest, is drawn in one colour
COLOURS = {"success": "#2e7d32", "timeout": "#8d6e00"}  # other failures are red


def film(config: Config, policy: Policy, encoder: DepthEncoder | None, path: Path) -> None:
    """Records the first evaluation layouts with the policy and writes them as a GIF."""
    first, clips = config.evaluation.first_layout, config.evaluation.clips
    layouts = range(first, first + clips)
    camera = filmed(config, layouts)
    try:
        recordings = []
        for episode in run_episodes(policy, environments.encode_once(camera, config.encoder, encoder), layouts):
            recording = camera.finished[episode.layout]
            recording.outcome = episode
            recordings.append(recording)
    finally:
        camera.close()
    write_gif(recordings, path, title=f"{config.experiment}, {_policy_name(config)}")


def _policy_name(config: Config) -> str:
    return (
        f"{config.encoder.name} ({config.encoder.weights} weights)"
        if config.encoder.kind == "defm"
        else config.encoder.kind
    )


def write_gif(recordings: list[Recording], path: Path, title: str = "") -> None:
    """Draws the recordings one after the other."""
    frames: list[Image.Image] = []
    durations: list[int] = []
    depth = [frame for recording in recordings for frames in recording.depth.values() for frame in frames]
    far_m = min(FAR_M, max(float(np.max(frame)) for frame in depth))
    for number, recording in enumerate(recordings):
        counted = f"\nlayout {number + 1} of {len(recordings)}" if len(recordings) > 1 else ""
        scene = _Scene(recording, title + counted, far_m)
        for step in range(recording.frames):
            frames.append(scene.draw(step))
            durations.append(FRAME_MS)
        durations[-1] = PAUSE_MS
        scene.close()
    # One palette for all frames (one of its own for each makes colours flicker), taken from some all along the film and
    # from each clip's last one, where the outcome stands.
    ends = [index for index, duration in enumerate(durations) if duration == PAUSE_MS]
    palette = _stacked([frames[index] for index in [*range(0, len(frames), 1 + len(frames) // 8), *ends]]).quantize(256)
    pictures = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0, optimize=False)


def _stacked(pictures: list[Image.Image]) -> Image.Image:
    return Image.fromarray(np.concatenate([np.asarray(picture) for picture in pictures]))


def _without_holes(depth: np.ndarray) -> np.ndarray:
    """Depth whose holes (0 m) are drawn as such, and not as the nearest thing there is."""
    return np.ma.masked_equal(depth, 0.0)


def _side_by_side(
    area: tuple[float, float, float, float], shapes: list[tuple[int, ...]]
) -> list[tuple[float, float, float, float]]:
    """Places for images in an area (left, bottom, width, height) of the figure, as large as they can be."""
    left, bottom, width, height = area
    gap, title = 0.02, 0.1  # between images, and above those below others
    high, wide = (max(shape[axis] for shape in shapes) for axis in (0, 1))

    def cell(columns: int) -> tuple[float, float]:
        rows = -(-len(shapes) // columns)
        return (width - gap * (columns - 1)) / columns, (height - title * (rows - 1)) / rows

    columns = max(range(1, len(shapes) + 1), key=lambda n: min(cell(n)[0] * ASPECT / wide, cell(n)[1] / high))
    across, up = cell(columns)
    return [
        (left + (k % columns) * (across + gap), bottom + height - up - (k // columns) * (up + title), across, up)
        for k in range(len(shapes))
    ]


class _Scene:
    """One episode's figure, of which only what moves is drawn anew."""

    def __init__(self, recording: Recording, title: str, far_m: float) -> None:
        self.recording = recording
        self.figure = plt.figure(figsize=(WIDTH_IN, HEIGHT_IN), dpi=90)
        # Fixed places: nothing may jump from one clip to the next.
        side = self.figure.add_axes((0.52, 0.16, 0.46, 0.64))
        self.figure.text(0.5, 0.97, title, fontsize=9, color="#444444", ha="center", va="top")
        colours = plt.get_cmap("viridis_r").with_extremes(bad="#202020")
        several = len(recording.depth) > 1
        places = _side_by_side((0.02, 0.24, 0.44, 0.56), [frames[0].shape for frames in recording.depth.values()])
        self.images = {}
        for (key, frames), place in zip(recording.depth.items(), places, strict=True):
            camera = self.figure.add_axes(place)
            self.images[key] = camera.imshow(_without_holes(frames[0]), cmap=colours, vmin=0, vmax=far_m)
            camera.set(xticks=[], yticks=[])
            camera.set_title(key.replace("_", " ") if several else "what it sees", fontsize=9)
        bar = self.figure.colorbar(
            next(iter(self.images.values())),
            cax=self.figure.add_axes((0.08, 0.16, 0.32, 0.03)),
            orientation="horizontal",
        )
        bar.set_label("depth (m); black: nothing there", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        self.scene = _Map(recording, side) if recording.layout is not None else _Pictures(recording, side)
        side.set_axis_off()
        self.outcome = side.text(0.5, -0.04, "", transform=side.transAxes, ha="center", va="top", fontsize=10)

    def draw(self, step: int) -> Image.Image:
        """The picture of one step."""
        for key, image in self.images.items():
            image.set_data(_without_holes(self.recording.depth[key][step]))
        self.scene.show(step)
        if step == self.recording.frames - 1 and self.recording.outcome is not None:
            name = self.recording.outcome.failure or "success"
            self.outcome.set(text=name, color=COLOURS.get(name, "#c62828"))
        self.figure.canvas.draw()
        return Image.fromarray(np.asarray(self.figure.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]

    def close(self) -> None:
        """Frees the figure."""
        plt.close(self.figure)


class _Pictures:
    """What the task's own camera shows, where it does."""

    def __init__(self, recording: Recording, axes: Any) -> None:
        self.pictures = recording.pictures
        if self.pictures:
            self.image = axes.imshow(self.pictures[0])
            axes.set_title("what it does", fontsize=9)

    def show(self, step: int) -> None:
        """Turns to one step."""
        if self.pictures:
            self.image.set_data(self.pictures[step])


class _Map:
    """Walls, goal and the way so far, from above."""

    def __init__(self, recording: Recording, axes: Any) -> None:
        layout = recording.layout
        assert layout is not None
        self.poses = recording.poses
        low_x, low_y, high_x, high_y = layout.bounds
        axes.add_patch(Rectangle((low_x, low_y), high_x - low_x, high_y - low_y, fill=False, ec="#333333", lw=1.5))
        for x, y, half_x, half_y, yaw in layout.boxes:
            box = Rectangle((-half_x, -half_y), 2 * half_x, 2 * half_y, fc="#6b7480", ec="none")
            box.set_transform(Affine2D().rotate(yaw).translate(x, y) + axes.transData)
            axes.add_patch(box)
        axes.add_patch(Circle((layout.goal[0], layout.goal[1]), 0.3, fc="#2e7d3233", ec="#2e7d32", lw=1.5))
        axes.plot(*layout.start[:2], "o", ms=4, color="#999999")
        (self.path,) = axes.plot([], [], color="#0b6e99", lw=1.5)
        (self.robot,) = axes.fill([0], [0], color="#0b6e99")
        axes.set(xlim=(low_x - 0.2, high_x + 0.2), ylim=(low_y - 0.2, high_y + 0.2), aspect="equal")
        axes.set_title("what it does", fontsize=9)

    def show(self, step: int) -> None:
        """Turns to one step."""
        poses = np.asarray(self.poses[: step + 1])
        x, y, yaw = poses[-1]
        self.path.set_data(poses[:, 0], poses[:, 1])
        arrow = np.array([(0.3, 0.0), (-0.18, 0.17), (-0.18, -0.17)])
        turn = np.array([(np.cos(yaw), np.sin(yaw)), (-np.sin(yaw), np.cos(yaw))])
        self.robot.set_xy(arrow @ turn + (x, y))
