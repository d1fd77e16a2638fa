"""Draws what every simulated camera sees of one navigation scene, and compares the stereo camera with real frames.

    python docs/figures/sensors.py                              # docs/figures/sensors.png
    python docs/figures/sensors.py --real FOLDER --out FOLDER   # and a comparison with recorded depth

Recorded depth: images of one channel (or three equal ones), `--real-scale` units to the metre, 0 where there is none.
"""

import argparse
from pathlib import Path

import gymnasium
import matplotlib
import numpy as np
import torch
from PIL import Image
from scipy import ndimage

import defm_rl.envs  # noqa: F401 (registers the task)
from defm_rl.sensors import SENSORS, simulate

matplotlib.use("Agg")
import matplotlib.pyplot as plt


def navigation_frame(seed):
    """Clean depth of one scene with boxes, (1, H, W) metres."""
    env = gymnasium.make_vec(
        "defm_rl/Navigation-v0", num_envs=8, level="boxes", depth_size=(120, 192), observations=("depth", "state")
    )
    depth = env.reset(seed=seed)[0]["depth"][:, 0]
    env.close()
    # The scene with the most within two metres says most about sensors.
    near = ((depth > 0.3) & (depth < 2.0)).mean((1, 2))
    return torch.from_numpy(depth[near.argmax()][None].copy())


def draw_profiles(depth, path):
    figure, axes = plt.subplots(3, 3, figsize=(12, 8), layout="constrained")
    pictures = {"clean": depth, **{name: simulate(depth, name, seed=1) for name in SENSORS}}
    for axis, (name, seen) in zip(axes.flat, pictures.items(), strict=True):
        seen = seen[0].numpy()
        axis.imshow(np.ma.masked_equal(seen, 0), cmap="viridis", vmin=0, vmax=6)
        axis.set_facecolor("black")
        axis.set_title(f"{name}: {(seen == 0).mean():.0%} holes", fontsize=10)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.suptitle("The same frame, 0 to 6 m; black: holes")
    figure.savefig(path, dpi=80)
    plt.close(figure)


def fill_holes(depth):
    """A stand-in for the clean frame: holes take the farther of the values to their left and right."""
    columns = np.arange(depth.shape[1])
    left = np.maximum.accumulate(np.where(depth > 0, columns, 0), 1)
    right = np.minimum.accumulate(np.where(depth > 0, columns, columns[-1])[:, ::-1], 1)[:, ::-1]
    filled = np.maximum(np.take_along_axis(depth, left, 1), np.take_along_axis(depth, right, 1))
    return np.where(filled > 0, filled, np.median(depth[depth > 0]))


def hole_figures(depth):
    """Share of holes, share in blobs below 1000 pixels, blobs of 20 pixels and more, outline per pixel of image."""
    holes = depth == 0
    labels, _ = ndimage.label(holes)
    sizes = np.bincount(labels.ravel())[1:]
    outline = (holes[:, 1:] != holes[:, :-1]).sum() + (holes[1:] != holes[:-1]).sum()
    return holes.mean(), sizes[sizes < 1000].sum() / holes.size, (sizes >= 20).sum(), outline / holes.size


def hole_sizes(frames):
    """Sizes of all holes in pixels, in rising order, and the share of the hole area in holes up to each size."""
    sizes = np.sort(np.concatenate([np.bincount(ndimage.label(frame == 0)[0].ravel())[1:] for frame in frames]))
    return sizes, np.cumsum(sizes) / sizes.sum()


def holes_near_edges(frames, clean, bounds_px, jump_m=0.1):
    """Share of holes among the pixels at some distance from a depth jump of the clean frames, between the bounds."""
    lost, pixels = np.zeros((2, len(bounds_px) - 1))
    for frame, truth in zip(frames, clean, strict=True):
        edges = ndimage.maximum_filter(truth, 3) - ndimage.minimum_filter(truth, 3) > jump_m
        distance = ndimage.distance_transform_edt(~edges)
        lost += np.histogram(distance[frame == 0], bounds_px)[0]
        pixels += np.histogram(distance, bounds_px)[0]
    return lost / np.maximum(pixels, 1)


def draw_holes(rows, clean, path):
    """Hole shares, shapes and edges of recorded and simulated frames beside each other."""
    figure, (shares, shapes, edges) = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    bounds_px = np.array([0, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128])
    for index, ((name, frames), style) in enumerate(zip(rows.items(), ("k-o", "C0--s", "C1-.^"), strict=True)):
        share = np.sort([(frame == 0).mean() for frame in frames])
        shares.plot(share, np.full(len(share), -index), style[0] if style[0] == "k" else style[:2], marker=style[-1])
        shapes.plot(*hole_sizes(frames), style.rstrip("os^"), label=name)
        near = holes_near_edges(frames, clean, bounds_px)
        edges.plot((bounds_px[1:] + bounds_px[:-1]) / 2, near, style, markersize=4, label=name)
    shares.set(
        title="Hole share of each frame", xlabel="share of pixels", yticks=range(-len(rows) + 1, 1), xlim=(0, 0.5)
    )
    shares.set_yticklabels(list(rows)[::-1])
    shapes.set(
        title="Hole shapes",
        xscale="log",
        xlabel="size of a hole (px)",
        ylabel="share of the hole area in\nholes up to that size",
    )
    edges.set(
        title="Holes at edges",
        xscale="log",
        xlabel="distance to a depth jump of 0.1 m (px)",
        ylabel="share of pixels lost",
    )
    edges.legend(frameon=False)
    figure.savefig(path, dpi=80)
    plt.close(figure)


def compare(folder, scale, out):
    frames = [
        np.asarray(Image.open(path).convert("L"), dtype=np.float32) / scale for path in sorted(folder.glob("*.png"))
    ]
    if not frames:
        raise SystemExit(f"{folder} holds no PNG")
    clean = torch.from_numpy(np.stack([fill_holes(frame) for frame in frames]))
    rows = {"recorded": frames, **{name: list(simulate(clean, name).numpy()) for name in ("stereo", "stereo_ladder")}}
    table = ["| | hole share | in small blobs | blobs | outline |", "|---|---|---|---|---|"]
    for name, row in rows.items():
        share, small, blobs, outline = np.array([hole_figures(frame) for frame in row]).T
        table.append(
            f"| {name} | {share.min():.0%} to {share.max():.0%}, mean {share.mean():.1%} | {small.mean():.1%} | "
            f"{blobs.mean():.0f} | {outline.mean():.3f} |"
        )
    draw_holes(rows, clean.numpy(), out / "stereo_holes.png")
    (out / "stereo_real.md").write_text("\n".join(table) + "\n")
    shown = range(0, len(frames), max(len(frames) // 4, 1))
    figure, axes = plt.subplots(len(shown), len(rows), figsize=(12, 2.3 * len(shown)), layout="constrained")
    for line, index in zip(axes, shown, strict=True):
        for axis, (name, row) in zip(line, rows.items(), strict=True):
            axis.imshow(np.ma.masked_equal(row[index], 0), cmap="viridis", vmin=0, vmax=2.5)
            axis.set_facecolor("black")
            axis.set_title(f"{name}: {(row[index] == 0).mean():.0%} holes", fontsize=9)
            axis.set_xticks([])
            axis.set_yticks([])
    figure.savefig(out / "stereo_real.png", dpi=80)
    plt.close(figure)


def main():
    """Draws."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", type=Path, help="a folder of recorded depth")
    parser.add_argument("--real-scale", type=float, default=100.0, help="units to the metre in it")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=3)
    args = parser.parse_args()
    draw_profiles(navigation_frame(args.seed), args.out / "sensors.png")
    if args.real:
        compare(args.real, args.real_scale, args.out)


if __name__ == "__main__":
    main()
