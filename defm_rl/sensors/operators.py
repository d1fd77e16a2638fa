"""What the profiles are made of: functions of (B, H, W) depth in metres with holes at 0, or of disparity in pixels."""

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from defm_rl.kernels import cpu_sensors
from defm_rl.sensors.noise import Noise, has_kernels

MORE_THAN_0 = torch.finfo(torch.float32).smallest_normal
"""The least positive number of float32."""

STEEPEST_SURFACE = 0.25
"""The most that disparity grows per pixel on a surface: tan(angle) * baseline / depth; 70 degrees at 0.55 m."""


def focal_length_px(width: int, horizontal_fov_deg: float) -> float:
    """Focal length of a pinhole camera, in pixels of an image of that width."""
    return width / 2 / math.tan(math.radians(horizontal_fov_deg) / 2)


def inverse(x: Tensor) -> Tensor:
    """1 / x, and 0 where x is not positive: from depth to disparity and back, holes staying holes."""
    return F.threshold(x, 0.0, math.inf).reciprocal_()  # several times as fast as a mask


def choose(x: Tensor, least: float, below: float, inside: Tensor | float, outside: Tensor | float = 0.0) -> Tensor:
    """`inside` where `least` <= x < `below`, else `outside`, also where x is NaN; tensors of x's shape, or numbers."""
    if has_kernels(x, *(value for value in (inside, outside) if isinstance(value, Tensor))):
        return cpu_sensors.choose(x, least, below, inside, outside)
    chosen = torch.where((x >= least) & (x < below), inside, outside)
    return chosen.to(x.dtype)


def within(x: Tensor, least: float, most: float, also: Tensor) -> Tensor:
    """`x` where it is from `least` to `most`, and `also` is positive; 0 elsewhere."""
    if has_kernels(x, also):
        return cpu_sensors.within(x, least, most, also)
    return torch.where((x >= least) & (x <= most) & (also > 0), x, 0.0)


def triangulate(
    depth: Tensor,
    errors: Tensor,
    constant_m_px: float,
    sigma_px: float,
    steps_per_px: float,
    largest_px: float = math.inf,
) -> Tensor:
    """Depth as measured through disparity: z' = c / (round((c / z + N(0, sigma)) s) / s).

    Args:
        depth: (B, H, W).
        errors: (B, H, W), standard normal.
        constant_m_px: c, focal length times baseline.
        sigma_px: sigma.
        steps_per_px: s.
        largest_px: Larger disparities are not found, and holes.
    """
    disparity = inverse(depth).mul_(constant_m_px).add_(errors, alpha=sigma_px)
    disparity = quantise(disparity, steps_per_px)
    return choose(disparity, -math.inf, above(largest_px), inverse(disparity).mul_(constant_m_px))


@functools.lru_cache(maxsize=64)
def above(value: float) -> float:
    """The next number of float32."""
    with np.errstate(over="ignore"):  # above the largest is infinity
        return float(np.nextafter(np.float32(value), np.float32(math.inf)))


def quantise(x: Tensor, steps: float) -> Tensor:
    """Rounded to 1 / steps."""
    return (x * steps).round_().div_(steps)


def shift_pixels(depth: Tensor, noise: Noise, sigma_px: float | Tensor, *others: Tensor) -> tuple[Tensor, ...]:
    """Each pixel reads another, N(0, sigma_px) away along each axis, rounded; the border is repeated.

    Args:
        depth: (B, H, W).
        noise: Random numbers.
        sigma_px: One for all, or (B, H, W).
        *others: (B, H, W); read at the same pixels.
    """
    _, height, width = depth.shape
    y, x = (offset.mul_(sigma_px) for offset in noise.normal_pair(height, width))
    rows = torch.arange(height, dtype=torch.float32, device=depth.device)[:, None]
    columns = torch.arange(width, dtype=torch.float32, device=depth.device)
    row, column = y.round_().add_(rows).clamp_(0, height - 1), x.round_().add_(columns).clamp_(0, width - 1)
    index = row.mul_(width).add_(column).long().flatten(1)
    return tuple(plane.flatten(1).gather(1, index).view_as(depth) for plane in (depth, *others))


def sample_shifted(depth: Tensor, noise: Noise, sigma_px: float) -> Tensor:
    """Each pixel reads N(0, sigma_px) away along each axis, bilinearly; holes are left out of the mean."""
    _, height, width = depth.shape
    y, x = (offset.mul_(sigma_px) for offset in noise.normal_pair(height, width))
    # Places in the image, from -1 to 1.
    y += torch.arange(height, dtype=torch.float32, device=depth.device)[:, None]
    x += torch.arange(width, dtype=torch.float32, device=depth.device)
    y.mul_(2 / max(height - 1, 1)).sub_(1)
    x.mul_(2 / max(width - 1, 1)).sub_(1)
    planes = torch.stack((depth, (depth > 0).to(depth.dtype)), 1)
    value, weight = F.grid_sample(planes, torch.stack((x, y), -1), padding_mode="border", align_corners=True).unbind(1)
    return torch.where(weight > 1e-3, value / weight, 0.0)


def surface_angle(depth: Tensor, focal_px: float) -> Tensor:
    """Angle between the viewing ray and the surface normal, radians, in [0, pi / 2].

    Inverse depth is affine in the pixel on a plane, so that its differences give the plane's normal exactly. Of the
    differences to both sides the smaller counts, which keeps edges between objects from looking like steep surfaces.
    """
    _, height, width = depth.shape
    q = inverse(depth)
    y = (torch.arange(height, dtype=depth.dtype, device=depth.device)[:, None] - (height - 1) / 2) / focal_px
    x = (torch.arange(width, dtype=depth.dtype, device=depth.device) - (width - 1) / 2) / focal_px
    n_x, n_y = _smaller_difference(q, 2) * focal_px, _smaller_difference(q, 1) * focal_px
    n_z = q - x * n_x - y * n_y
    length = (n_x.square() + n_y.square() + n_z.square()).mul_(x.square() + y.square() + 1).sqrt_()
    return (q / length.clamp_(min=1e-12)).clamp_(-1.0, 1.0).acos_()


def _smaller_difference(q: Tensor, dim: int) -> Tensor:
    """Per pixel the smaller of the differences to its two neighbours along an axis; those to holes do not count."""
    count = q.shape[dim]
    if count == 1:
        return torch.zeros_like(q)
    near, far = q.narrow(dim, 0, count - 1), q.narrow(dim, 1, count - 1)
    difference = torch.where((near > 0) & (far > 0), far - near, math.inf)
    outside = torch.full_like(q.narrow(dim, 0, 1), math.inf)
    before, after = torch.cat((outside, difference), dim), torch.cat((difference, outside), dim)
    smaller = torch.where(before.abs() < after.abs(), before, after)
    return torch.where(smaller.isinf(), 0.0, smaller)


def occluded(disparity: Tensor, largest_px: float, dither: Tensor) -> Tensor:
    """Where the right camera of a stereo pair does not see what the left one sees.

    A pixel at column x lands at x - disparity in the right image. It is hidden there if something further right lands
    at the same place or before it, and it has no partner if that is left of the right image.

    Args:
        disparity: (B, H, W), in pixels of this image; 0 where there is none.
        largest_px: No disparity is larger.
        dither: (B, H, W), up to ±0.5; moves the comparison, so that shadows narrower than a pixel occur as often as
            they should.

    Returns:
        (B, H, W), bool.
    """
    width = disparity.shape[2]
    columns = torch.arange(width, dtype=disparity.dtype, device=disparity.device)
    landing = columns - disparity
    # Minimum over everything to the right within reach, by doubling: columns x .. x + reach.
    lowest, reach = landing.clone(), 1
    while reach <= min(largest_px + 1, width - 1):
        lowest[..., :-reach] = torch.minimum(lowest[..., :-reach], lowest[..., reach:])
        reach *= 2
    lowest[..., :-1] = lowest[..., 1:].clone()  # only what is right of the pixel itself
    lowest[..., -1] = width
    place = landing + dither
    # One pixel to the right lands one further on a fronto-parallel surface: half of it is the border between the two.
    # A surface that comes nearer to the right lands a bit less further, and hides nothing.
    hidden = (place > lowest - 0.5) & (lowest - landing < 1 - STEEPEST_SURFACE)
    return hidden | (place < -0.5)


def near_edges(disparity: Tensor, jump_px: float, width_px: float, chance: Tensor) -> Tensor:
    """Pixels within `width_px` of a jump in disparity.

    Args:
        disparity: (B, H, W), pixels.
        jump_px: The least difference between neighbours that counts.
        width_px: How far from the edge, in pixels of this image; a fraction is reached with that probability.
        chance: (B, H, W), uniform in [0, 1).

    Returns:
        (B, H, W), bool.
    """
    padded = F.pad(disparity, (1, 1, 1, 1), mode="replicate")
    centre = padded[:, 1:-1, 1:-1]
    neighbours = (padded[:, 1:-1, 2:], padded[:, 1:-1, :-2], padded[:, 2:, 1:-1], padded[:, :-2, 1:-1])
    edge = torch.zeros_like(disparity, dtype=torch.bool)
    for neighbour in neighbours:
        edge |= (neighbour - centre).abs() > jump_px
    whole = int(width_px)
    for _ in range(whole - 1):
        edge = grow(edge)
    if whole == 0:
        return edge & (chance < width_px)
    return edge | (grow(edge) & (chance < width_px - whole))


def grow(mask: Tensor) -> Tensor:
    """A mask with its four neighbours."""
    grown = mask.clone()
    grown[:, 1:] |= mask[:, :-1]
    grown[:, :-1] |= mask[:, 1:]
    grown[:, :, 1:] |= mask[:, :, :-1]
    grown[:, :, :-1] |= mask[:, :, 1:]
    return grown


def smooth_field(noise: Noise, height: int, width: int, size_px: float) -> Tensor:
    """A smooth Gaussian field of mean 0 and variance 1; cut at a quantile it gives blobs that cover such a share.

    Args:
        noise: Random numbers.
        height: Pixels.
        width: Pixels.
        size_px: Standard deviation of the smoothing.

    Returns:
        (B, H, W).
    """
    spread = max(size_px, 0.5)
    down, across = _smoothing(height, spread, noise.device), _smoothing(width, spread, noise.device)
    if noise.has_kernels():
        return cpu_sensors.smooth_field(noise.take(2), down, across, spread)
    return down.T @ (noise.normal(len(down), len(across)) @ across)


@functools.lru_cache(maxsize=32)
def _smoothing(count: int, spread_px: float, device: torch.device) -> Tensor:
    """(nodes, count): Gaussian weights of a coarser grid; a pixel's are of length 1, so that variance stays 1."""
    nodes = torch.arange(-3 * spread_px, count + 3 * spread_px, spread_px, device=device)
    distance = torch.arange(count, dtype=torch.float32, device=device) - nodes[:, None]
    return F.normalize(torch.exp(-0.5 * (distance / spread_px).square()), dim=0)


def sticks(noise: Noise, height: int, width: int, probability: float, length_px: float, width_px: float) -> Tensor:
    """Straight bars of random place, direction and size; (B, H, W), a random number in (0, 1] on each, 0 elsewhere.

    Args:
        noise: Random numbers.
        height: Pixels.
        width: Pixels.
        probability: Of a stick beginning, per pixel; at most a few per image.
        length_px: The longest; lengths are uniform between one pixel and this.
        width_px: The widest; widths are uniform between one pixel and this.
    """
    slots, begins = stick_slots(probability, height, width)
    random = noise.uniform(slots, 7)
    active, y, x, direction, length, breadth, value = (random[..., i, None, None] for i in range(7))
    along = torch.arange(0, length_px, 0.5, device=noise.device)[:, None]
    aside = torch.arange(0, width_px, 0.5, device=noise.device)
    sine, cosine = (direction * math.pi).sin(), (direction * math.pi).cos()
    column = (x * width + along * cosine - aside * sine).floor()
    row = (y * height + along * sine + aside * cosine).floor()
    drawn = (active < begins) & (along < 1 + length * (length_px - 1)) & (aside < 1 + breadth * (width_px - 1))
    drawn = drawn & (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = torch.where(drawn, row * width + column, 0.0).long().flatten(1)
    values = torch.where(drawn, 1 - value, 0.0).flatten(1)
    # The largest wins where sticks cross: unlike the last, it does not depend on the order in which a GPU writes.
    out = values.new_zeros(noise.batch, height * width).scatter_reduce(1, index, values, "amax")
    return out.view(noise.batch, height, width)


def stick_slots(probability: float, height: int, width: int) -> tuple[int, float]:
    """How many sticks there may be, and how probable each of them is: a binomial number, close to Poisson."""
    expected = probability * height * width
    slots = math.ceil(expected + 4 * math.sqrt(expected)) + 1
    return slots, expected / slots


def pick(x: Tensor, values: Sequence[float], factor: float) -> Tensor:
    """Of the values that at floor(x * factor), modulo their number; 0 where x is not positive."""
    index = (x * factor).floor_()
    index.sub_((index / len(values)).floor_(), alpha=len(values))  # PyTorch's remainder takes many times as long
    picked = torch.zeros_like(x)
    for choice, value in enumerate(values):
        picked = choose(index, choice, choice + 1, value, picked)
    return choose(x, MORE_THAN_0, math.inf, picked)


def running_max(x: Tensor, count: int, dim: int) -> Tensor:
    """The maximum of each value and the `count - 1` before it along an axis."""
    out, reach = x, 1
    while reach < min(count, x.shape[dim]):
        step = min(reach, count - reach)
        out = out.clone()
        late, early = out.narrow(dim, step, x.shape[dim] - step), out.narrow(dim, 0, x.shape[dim] - step)
        late.copy_(torch.maximum(late, early.clone()))
        reach += step
    return out


def spread_and_mean(x: Tensor) -> tuple[Tensor, Tensor]:
    """Standard deviation and mean of each image, (B, 1, 1); as `torch.std_mean`, but several times as fast."""
    mean = x.mean((1, 2), keepdim=True)
    variance = (x - mean).square_().sum((1, 2), keepdim=True) / (x[0].numel() - 1)
    return variance.sqrt_(), mean


def difference_from_surroundings(x: Tensor) -> Tensor:
    """|x - m|, m being the mean over 3x3 pixels with weights 1, 1 (beside) and 0.71 (diagonal); the border repeats."""
    weight = math.sqrt(0.5)
    return _sum_3x3(x, weight, repeats=True).div_(5 + 4 * weight).sub_(x).abs_()


def box_sum(x: Tensor) -> Tensor:
    """Sum over 3x3 pixels, zeros outside."""
    return _sum_3x3(x, 1.0, repeats=False)


def _sum_3x3(x: Tensor, diagonal: float, *, repeats: bool) -> Tensor:
    """Sum over 3x3 pixels, those on the diagonals with that weight; beyond the border it repeats, or is 0."""
    padded = F.pad(x, (1, 1, 1, 1), mode="replicate" if repeats else "constant")
    across = padded[:, :, :-2] + padded[:, :, 2:]
    straight = across[:, 1:-1] + padded[:, :-2, 1:-1] + padded[:, 2:, 1:-1]
    return straight.add_(x).add_(across[:, :-2] + across[:, 2:], alpha=diagonal)


def rotate(depth: Tensor, angles_rad: Tensor, focal_px: float) -> Tensor:
    """What the camera sees after turning about its centre; exact but for the nearest pixel being read.

    Turning causes no parallax, so that the image is enough: points keep their place and get new planar depth. What
    was outside the image before becomes a hole.

    Args:
        depth: (B, H, W), planar metres.
        angles_rad: (B, 3): about x (right), y (down) and z (ahead), applied in this order; pitch, yaw, roll.
        focal_px: Focal length in pixels of this image; square pixels, centred.
    """
    _, height, width = depth.shape
    y = (torch.arange(height, dtype=torch.float32, device=depth.device) - (height - 1) / 2) / focal_px
    x = (torch.arange(width, dtype=torch.float32, device=depth.device) - (width - 1) / 2) / focal_px
    rays = torch.stack((x.expand(height, -1), y[:, None].expand(-1, width), torch.ones_like(depth[0])), -1)
    old = rays.reshape(-1, 3) @ rotation_matrices(angles_rad.float()).transpose(1, 2)  # (B, H W, 3)
    ahead = old[..., 2].clamp(min=1e-6)
    column = (old[..., 0] / ahead * focal_px + (width - 1) / 2).round_()
    row = (old[..., 1] / ahead * focal_px + (height - 1) / 2).round_()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height) & (old[..., 2] > 0)
    index = torch.where(inside, row * width + column, 0.0).long()
    return torch.where(inside, depth.flatten(1).gather(1, index) / ahead, 0.0).view_as(depth)


def rotation_matrices(angles_rad: Tensor) -> Tensor:
    """(B, 3, 3) from (B, 3) angles: directions of the turned camera in the old camera's frame."""
    (sx, sy, sz), (cx, cy, cz) = angles_rad.sin().unbind(1), angles_rad.cos().unbind(1)
    rows = (
        (cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx),
        (sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx),
        (-sy, cy * sx, cy * cx),
    )
    return torch.stack([torch.stack(row, 1) for row in rows], 1)
