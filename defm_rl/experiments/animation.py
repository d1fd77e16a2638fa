"""Episodes as an animation: what the robot sees beside a map of what it does."""

from pathlib import Path

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
from defm_rl.experiments.recording import Camera, Recording

DEPTH = "depth"  # the camera whose images are shown
FRAME_MS = 100  # twice as fast as the 0.2 s control step
PAUSE_MS = 900  # on an episode's last frame
FAR_M = 6.0  # depth from here on is drawn in one colour
COLOURS = {"success": "#2e7d32", "timeout": "#8d6e00"}  # other failures are red



def film(config: Config, policy: Policy, encoder: DepthEncoder | None, path: Path) -> None:
    """Records the first evaluation layouts with the policy and writes them as a GIF."""
    first, clips = config.evaluation.first_layout, config.evaluation.clips
    layouts = range(first, first + clips)
    seen = environments.policy_keys(config.encoder, config.algo)
    # A blind policy is filmed too: its camera runs for the viewer alone.
    env = environments.make_vec_env(
        config.env, (DEPTH, *seen), seed=config.seed, num_envs=clips, layout_seeds=list(layouts)
    )
    try:
        camera = Camera(env, DEPTH, seen)
        recordings = []
        for episode in run_episodes(policy, environments.encode_once(camera, config.encoder, encoder), layouts):
            recording = camera.finished[episode.layout]
            recording.outcome = episode
            recordings.append(recording)
    finally:
        env.close()
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
    for number, recording in enumerate(recordings):
        scene = _Scene(recording, f"{title}\nlayout {number + 1} of {len(recordings)}")
        for step in range(len(recording.depth)):
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


class _Scene:
    """One episode's figure, of which only what moves is drawn anew."""

    def __init__(self, recording: Recording, title: str) -> None:
        self.recording = recording
        self.figure = plt.figure(figsize=(8.4, 3.1), dpi=90)
        # Fixed places: nothing may jump from one clip to the next.
        self.camera = self.figure.add_axes((0.02, 0.24, 0.44, 0.56))
        self.map = self.figure.add_axes((0.52, 0.16, 0.46, 0.64))
        self.figure.text(0.5, 0.97, title, fontsize=9, color="#444444", ha="center", va="top")
        colours = plt.get_cmap("viridis_r").with_extremes(bad="#202020")
        self.image = self.camera.imshow(_without_holes(recording.depth[0]), cmap=colours, vmin=0, vmax=FAR_M)
        self.camera.set(xticks=[], yticks=[])
        self.camera.set_title("what it sees", fontsize=9)
        bar = self.figure.colorbar(
            self.image, cax=self.figure.add_axes((0.08, 0.16, 0.32, 0.03)), orientation="horizontal"
        )
        bar.set_label("depth (m); black: nothing there", fontsize=8)
        bar.ax.tick_params(labelsize=7)
        self._draw_map()

    def _draw_map(self) -> None:
        layout, axes = self.recording.layout, self.map
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
        axes.set(
            xlim=(low_x - 0.2, high_x + 0.2), ylim=(low_y - 0.2, high_y + 0.2), aspect="equal", xticks=[], yticks=[]
        )
        axes.set_title("what it does", fontsize=9)
        axes.set_axis_off()
        self.outcome = axes.text(0.5, -0.04, "", transform=axes.transAxes, ha="center", va="top", fontsize=10)

    def draw(self, step: int) -> Image.Image:
        """The picture of one step."""
        poses = np.asarray(self.recording.poses[: step + 1])
        x, y, yaw = poses[-1]
        self.image.set_data(_without_holes(self.recording.depth[step]))
        self.path.set_data(poses[:, 0], poses[:, 1])
        arrow = np.array([(0.3, 0.0), (-0.18, 0.17), (-0.18, -0.17)])
        turn = np.array([(np.cos(yaw), np.sin(yaw)), (-np.sin(yaw), np.cos(yaw))])
        self.robot.set_xy(arrow @ turn + (x, y))
        if step == len(self.recording.depth) - 1 and self.recording.outcome is not None:
            name = self.recording.outcome.failure or "success"
            self.outcome.set(text=name, color=COLOURS.get(name, "#c62828"))
        self.figure.canvas.draw()
        return Image.fromarray(np.asarray(self.figure.canvas.buffer_rgba())[..., :3])  # type: ignore[attr-defined]

    def close(self) -> None:
        """Frees the figure."""
        plt.close(self.figure)
