"""Group normalization, a residual and an activation as Triton kernels, with their gradients.

A program works on some groups of an image, in tiles of pixels by channels; strides tell it where a channel and a pixel
are, so that contiguous and channels-last tensors take the same way. Channels are laid out in slots: as many for each
group as the next power of two, with a mask over those that no channel fills.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from defm_rl.kernels import GroupNormActFunction, attempt
from defm_rl.kernels.sharing import shares

_TILE = 2048  # elements that a program holds at once
_SLOTS_LAST = 32  # channels side by side where they come last: whole memory sectors in two bytes each


class FusedGroupNormAct(torch.autograd.Function):
    """`defm_rl.kernels.group_norm_act` with its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        residual: Tensor | None,
        groups: int,
        eps: float,
        activation: str,
        composed: GroupNormActFunction,
    ) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        y, x, residual, mean, inverse_std = _forward(x, groups, weight, bias, eps, activation, residual)
        ctx.save_for_backward(x, weight, bias, residual, mean, inverse_std)
        ctx.settings = (groups, eps, activation, composed)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of x, weight, bias and residual; autograd brings each to the dtype of what it belongs to."""
        x, weight, bias, residual, mean, inverse_std = ctx.saved_tensors
        groups, eps, activation, composed = ctx.settings
        gradients = attempt(
            lambda: _backward(gradient, x, groups, weight, bias, activation, residual, mean, inverse_std),
            lambda: _composed_backward(gradient, x, groups, weight, bias, eps, activation, residual, composed),
        )
        return *gradients, None, None, None, None


def fused_group_norm_act(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    residual: Tensor | None,
    groups: int,
    eps: float,
    activation: str,
    composed: GroupNormActFunction,
) -> Tensor:
    """As `defm_rl.kernels.group_norm_act`."""
    out: Tensor = FusedGroupNormAct.apply(x, weight, bias, residual, groups, eps, activation, composed)  # type: ignore[no-untyped-call]
    return out


class _Plan(NamedTuple):
    """How the work on a tensor is laid out."""

    memory_format: torch.memory_format
    images: int
    pixels: int
    groups: int
    group_channels: int
    pixel_stride: int
    channel_stride: int
    block_pixels: int
    block_groups: int
    block_channels: int
    parts: int

    @property
    def grid(self) -> tuple[int, int]:
        """Groups of an image by shares of its pixels."""
        return self.images * triton.cdiv(self.groups, self.block_groups), self.parts

    @property
    def sizes(self) -> tuple[int, ...]:
        """What every kernel takes last but for the parts."""
        return (
            self.pixels,
            self.groups,
            self.group_channels,
            self.pixel_stride,
            self.channel_stride,
            self.block_pixels,
            self.block_groups,
            self.block_channels,
            self.parts,
        )


def _plan(x: Tensor, groups: int) -> _Plan:
    images, channels, height, width = x.shape
    pixels, group_channels = height * width, channels // groups
    block_channels, block_pixels = triton.next_power_of_2(group_channels), triton.next_power_of_2(pixels)
    if x.is_contiguous() or not x.is_contiguous(memory_format=torch.channels_last):
        memory_format, strides, block_groups = torch.contiguous_format, (1, pixels), 1
        block_pixels = min(block_pixels, _TILE)
        block_channels = min(block_channels, _TILE // block_pixels)
    else:
        memory_format, strides = torch.channels_last, (channels, 1)
        block_channels = min(block_channels, _SLOTS_LAST)
        block_groups = min(triton.next_power_of_2(groups), _SLOTS_LAST // block_channels)
        block_pixels = min(block_pixels, _TILE // (block_groups * block_channels))
    units = images * triton.cdiv(groups, block_groups)
    parts = shares(units, triton.cdiv(pixels, block_pixels))
    blocks = block_pixels, block_groups, block_channels
    return _Plan(memory_format, images, pixels, groups, group_channels, *strides, *blocks, parts)


def _forward(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, activation: str, residual: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor, Tensor]:
    """The result, `x` and the residual in the layout used, and mean and 1 / standard deviation, (B, groups)."""
    plan = _plan(x, groups)
    x = x.contiguous(memory_format=plan.memory_format)
    if residual is not None:
        residual = residual.contiguous(memory_format=plan.memory_format)
    dtype = torch.float32 if torch.is_autocast_enabled(x.device.type) else x.dtype
    y = torch.empty_like(x, dtype=dtype, memory_format=plan.memory_format)
    mean, inverse_std = x.new_empty((2, plan.images, groups), dtype=torch.float32)
    moments = x.new_empty((2, plan.images, groups, plan.parts), dtype=torch.float32)
    with torch.cuda.device_of(x):
        if plan.parts > 1:
            _moments_kernel[plan.grid](x, *moments, *plan.sizes)
        _forward_kernel[plan.grid](
            x,
            x if residual is None else residual,
            y,
            weight,
            bias,
            *moments,
            mean,
            inverse_std,
            eps,
            activation,
            residual is not None,
            *plan.sizes,
        )
    return y, x, residual, mean, inverse_std


def _backward(
    gradient: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    activation: str,
    residual: Tensor | None,
    mean: Tensor,
    inverse_std: Tensor,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight, bias and residual."""
    plan = _plan(x, groups)
    gradient = gradient.contiguous(memory_format=plan.memory_format)
    sums = x.new_empty((2, plan.images, x.shape[1], plan.parts), dtype=torch.float32)
    x_gradient = torch.empty_like(x)
    residual_gradient = None if residual is None else torch.empty_like(residual)
    inputs = (gradient, x, x if residual is None else residual, weight, bias, mean, inverse_std, *sums)
    settings = (activation, residual is not None, *plan.sizes)
    with torch.cuda.device_of(x):
        _sums_kernel[plan.grid](*inputs, *settings)
        _gradients_kernel[plan.grid](
            *inputs, x_gradient, x_gradient if residual_gradient is None else residual_gradient, *settings
        )
    bias_gradient, weight_gradient = sums.sum((1, 3))
    return x_gradient, weight_gradient, bias_gradient, residual_gradient


def _composed_backward(
    gradient: Tensor,
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    activation: str,
    residual: Tensor | None,
    composed: GroupNormActFunction,
) -> tuple[Tensor | None, ...]:
    """The gradients from PyTorch's operations, where the backward kernels fail after the forward ones did not."""
    leaves = [tensor.detach().float().requires_grad_() for tensor in (x, weight, bias, residual) if tensor is not None]
    with torch.enable_grad():
        x, weight, bias = leaves[:3]
        y = composed(x, groups, weight, bias, eps, activation, None if residual is None else leaves[3])
    gradients: tuple[Tensor | None, ...] = torch.autograd.grad(y, leaves, gradient.float())
    return gradients if residual is not None else (*gradients, None)


@triton.jit
def _place(groups, block_groups: tl.constexpr):
    """The image of this program and the first of its groups."""
    group_blocks = tl.cdiv(groups, block_groups)
    return tl.program_id(0) // group_blocks, tl.program_id(0) % group_blocks * block_groups


@triton.jit
def _share(pixels, part, block_pixels: tl.constexpr, parts: tl.constexpr):
    """First pixel of a share, and the one behind its last; whole tiles, so that the last shares may be empty."""
    share = tl.cdiv(tl.cdiv(pixels, block_pixels), parts) * block_pixels
    return part * share, tl.minimum((part + 1) * share, pixels)


@triton.jit
def _slots(
    first_group,
    first_channel,
    groups,
    group_channels,
    block_groups: tl.constexpr,
    block_channels: tl.constexpr,
):
    """The channel of each slot, and whether there is one; `first_channel` is counted within its group."""
    slot = tl.arange(0, block_groups * block_channels)
    group = first_group + slot // block_channels
    channel = first_channel + slot % block_channels
    return group * group_channels + channel, (group < groups) & (channel < group_channels)


@triton.jit
def _tile(first, stop, channels, exist, pixel_stride, channel_stride, block_pixels: tl.constexpr):
    """Offsets of a tile within its image, and which of them there are."""
    pixels = first + tl.arange(0, block_pixels)
    offsets = pixels[:, None] * pixel_stride + channels[None, :] * channel_stride
    return offsets, (pixels < stop)[:, None] & exist[None, :]


@triton.jit
def _sum_per_group(slots, block_groups: tl.constexpr, block_channels: tl.constexpr):
    return tl.sum(tl.reshape(slots, (block_groups, block_channels)), 1)


@triton.jit
def _spread(per_group, block_groups: tl.constexpr, block_channels: tl.constexpr):
    """A group's value in each of its slots."""
    rows = tl.broadcast_to(per_group[:, None], (block_groups, block_channels))
    return tl.reshape(rows, (block_groups * block_channels,))


@triton.jit
def _load_per_group(pointer, image, first_group, groups, block_groups: tl.constexpr):
    group = first_group + tl.arange(0, block_groups)
    return tl.load(pointer + image * groups + group, mask=group < groups, other=0.0)


@triton.jit
def _activate(z, activation: tl.constexpr):
    if activation == "relu":
        z = tl.where(z < 0.0, 0.0, z)  # not a maximum, which would hide NaN
    if activation == "silu":
        z = z * tl.sigmoid(z)
    return z


@triton.jit
def _slope(z, activation: tl.constexpr):
    """The derivative of the activation, as a factor."""
    slope = tl.full(z.shape, 1.0, tl.float32)
    if activation == "relu":
        slope = tl.where(z > 0.0, 1.0, 0.0)
    if activation == "silu":
        sigmoid = tl.sigmoid(z)
        slope = sigmoid * (1.0 + z * (1.0 - sigmoid))
    return slope


@triton.jit
def _moments(
    x,
    start,
    stop,
    first_group,
    groups,
    group_channels,
    pixel_stride,
    channel_stride,
    block_pixels: tl.constexpr,
    block_groups: tl.constexpr,
    block_channels: tl.constexpr,
):
    """Mean and sum of squared deviations of each group, over the pixels from start to stop.

    Each element of the tile follows Welford's recurrence over the tiles; what they come to is merged after Chan, Golub
    and LeVeque (1983). Nothing is ever the difference of two large sums.
    """
    count = tl.zeros((block_groups,), tl.float32)
    mean = tl.zeros((block_groups,), tl.float32)
    squares = tl.zeros((block_groups,), tl.float32)
    lane = tl.arange(0, block_pixels)
    lane_pixels = (tl.maximum(stop - start - lane, 0) + block_pixels - 1) // block_pixels
    for first_channel in range(0, group_channels, block_channels):
        channels, exist = _slots(first_group, first_channel, groups, group_channels, block_groups, block_channels)
        lane_mean = tl.zeros((block_pixels, block_groups * block_channels), tl.float32)
        lane_squares = tl.zeros((block_pixels, block_groups * block_channels), tl.float32)
        seen = 0.0
        for first in range(start, stop, block_pixels):
            offsets, inside = _tile(first, stop, channels, exist, pixel_stride, channel_stride, block_pixels)
            value = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
            seen += 1.0
            deviation = tl.where(inside, value - lane_mean, 0.0)
            lane_mean += deviation * (1.0 / seen)
            lane_squares += deviation * (value - lane_mean)
        lane_count = tl.where(exist[None, :], lane_pixels[:, None], 0).to(tl.float32)
        more = _sum_per_group(tl.sum(lane_count, 0), block_groups, block_channels)
        more_mean = _sum_per_group(tl.sum(lane_count * lane_mean, 0), block_groups, block_channels)
        more_mean = more_mean / tl.maximum(more, 1.0)
        deviation = lane_mean - _spread(more_mean, block_groups, block_channels)[None, :]
        lane_squares += lane_count * deviation * deviation
        more_squares = _sum_per_group(tl.sum(lane_squares, 0), block_groups, block_channels)

        apart, total = more_mean - mean, count + more
        mean += apart * (more / tl.maximum(total, 1.0))
        squares += more_squares + apart * apart * (count * more / tl.maximum(total, 1.0))
        count = total
    return mean, squares


@triton.jit
def _merged_moments(
    means,
    squares,
    pixels,
    image,
    first_group,
    groups,
    group_channels,
    block_pixels: tl.constexpr,
    block_groups: tl.constexpr,
    parts: tl.constexpr,
):
    """The moments of each group from those of its shares."""
    group, part = first_group + tl.arange(0, block_groups), tl.arange(0, parts)
    offsets = ((image * groups + group) * parts)[:, None] + part[None, :]
    exist = (group < groups)[:, None]
    part_means = tl.load(means + offsets, mask=exist, other=0.0)
    part_squares = tl.load(squares + offsets, mask=exist, other=0.0)
    start, stop = _share(pixels, part, block_pixels, parts)
    count = (tl.maximum(stop - start, 0) * group_channels).to(tl.float32)[None, :]
    mean = tl.sum(part_means * count, 1) / (pixels * group_channels)
    deviation = part_means - mean[:, None]
    return mean, tl.sum(part_squares + count * deviation * deviation, 1)


@triton.jit
def _moments_kernel(
    x,
    means,
    squares,
    pixels,
    groups,
    group_channels,
    pixel_stride,
    channel_stride,
    block_pixels: tl.constexpr,
    block_groups: tl.constexpr,
    block_channels: tl.constexpr,
    parts: tl.constexpr,
):
    """The moments of one share of the pixels."""
    image, first_group = _place(groups, block_groups)
    part = tl.program_id(1)
    start, stop = _share(pixels, part, block_pixels, parts)
    mean, square = _moments(
        x + image.to(tl.int64) * pixels * groups * group_channels,
        start,
        stop,
        first_group,
        groups,
        group_channels,
        pixel_stride,
        channel_stride,
        block_pixels,
        block_groups,
        block_channels,
    )
    group = first_group + tl.arange(0, block_groups)
    offsets = (image * groups + group) * parts + part
    tl.store(means + offsets, mean, mask=group < groups)
    tl.store(squares + offsets, square, mask=group < groups)


@triton.jit
def _forward_kernel(
    x,
    residual,
    y,
    weight,
    bias,
    means,
    squares,
    mean_out,
    inverse_std_out,
    eps,
    activation: tl.constexpr,
    has_residual: tl.constexpr,
    pixels,
    groups,
    group_channels,
    pixel_stride,
    channel_stride,
    block_pixels: tl.constexpr,
    block_groups: tl.constexpr,
    block_channels: tl.constexpr,
    parts: tl.constexpr,
):
    """Writes one share of the pixels; without shares, it computes the moments itself."""
    image, first_group = _place(groups, block_groups)
    base = image.to(tl.int64) * pixels * groups * group_channels
    start, stop = _share(pixels, tl.program_id(1), block_pixels, parts)
    if parts == 1:
        mean, square = _moments(
            x + base,
            0,
            pixels,
            first_group,
            groups,
            group_channels,
            pixel_stride,
            channel_stride,
            block_pixels,
            block_groups,
            block_channels,
        )
    else:
        mean, square = _merged_moments(
            means, squares, pixels, image, first_group, groups, group_channels, block_pixels, block_groups, parts
        )
    inverse_std = 1.0 / tl.sqrt(square / (pixels * group_channels) + eps)
    group = first_group + tl.arange(0, block_groups)
    # Every share writes the same.
    tl.store(mean_out + image * groups + group, mean, mask=group < groups)
    tl.store(inverse_std_out + image * groups + group, inverse_std, mask=group < groups)

    center = _spread(mean, block_groups, block_channels)[None, :]
    factor = _spread(inverse_std, block_groups, block_channels)
    for first_channel in range(0, group_channels, block_channels):
        channels, exist = _slots(first_group, first_channel, groups, group_channels, block_groups, block_channels)
        scale = tl.load(weight + channels, mask=exist, other=0.0).to(tl.float32) * factor
        shift = tl.load(bias + channels, mask=exist, other=0.0).to(tl.float32)
        for first in range(start, stop, block_pixels):
            offsets, inside = _tile(first, stop, channels, exist, pixel_stride, channel_stride, block_pixels)
            value = tl.load(x + base + offsets, mask=inside, other=0.0).to(tl.float32)
            z = (value - center) * scale[None, :] + shift[None, :]
            if has_residual:
                z += tl.load(residual + base + offsets, mask=inside, other=0.0).to(tl.float32)
            tl.store(y + base + offsets, _activate(z, activation), mask=inside)


@triton.jit
def _backward_tile(
    gradient,
    x,
    residual,
    offsets,
    inside,
    scale,
    shift,
    center,
    factor,
    activation: tl.constexpr,
    has_residual: tl.constexpr,
):
    """For a tile: the gradient of what is activated, 0 outside, and the normalized input."""
    value = tl.load(x + offsets, mask=inside, other=0.0).to(tl.float32)
    normed = (value - center[None, :]) * factor[None, :]
    z = normed * scale[None, :] + shift[None, :]
    if has_residual:
        z += tl.load(residual + offsets, mask=inside, other=0.0).to(tl.float32)
    return tl.load(gradient + offsets, mask=inside, other=0.0).to(tl.float32) * _slope(z, activation), normed


@triton.jit
def _sums_kernel(
    gradient,
    x,
    residual,
    weight,
    bias,
    mean,
    inverse_std,
    sums,
    products,
    activation: tl.constexpr,
    has_residual: tl.constexpr,
    pixels,
    groups,
    group_channels,
    pixel_stride,
    channel_stride,
    block_pixels: tl.constexpr,
    block_groups: tl.constexpr,
    block_channels: tl.constexpr,
    parts: tl.constexpr,
):
    """For each channel of an image: the sums of the gradient dz before the activation, and of dz times the normed x.

    Over the batch, they are the gradients of bias and weight.
    """
    image, first_group = _place(groups, block_groups)
    base = image.to(tl.int64) * pixels * groups * group_channels
    part = tl.program_id(1)
    start, stop = _share(pixels, part, block_pixels, parts)
    per_group = _load_per_group(mean, image, first_group, groups, block_groups)
    center = _spread(per_group, block_groups, block_channels)
    per_group = _load_per_group(inverse_std, image, first_group, groups, block_groups)
    factor = _spread(per_group, block_groups, block_channels)
    for first_channel in range(0, group_channels, block_channels):
        channels, exist = _slots(first_group, first_channel, groups, group_channels, block_groups, block_channels)
        scale = tl.load(weight + channels, mask=exist, other=0.0).to(tl.float32)
        shift = tl.load(bias + channels, mask=exist, other=0.0).to(tl.float32)
        lane_sums = tl.zeros((block_pixels, block_groups * block_channels), tl.float32)
        lane_products = tl.zeros((block_pixels, block_groups * block_channels), tl.float32)
        for first in range(start, stop, block_pixels):
            offsets, inside = _tile(first, stop, channels, exist, pixel_stride, channel_stride, block_pixels)
            dz, normed = _backward_tile(
                gradient + base,
                x + base,
                residual + base,
                offsets,
                inside,
                scale,
                shift,
                center,
                factor,
                activation,
                has_residual,
            )
            lane_sums += dz
            lane_products += dz * normed
        places = (image * groups * group_channels + channels) * parts + part
        tl.store(sums + places, tl.sum(lane_sums, 0), mask=exist)
        tl.store(products + places, tl.sum(lane_products, 0), mask=exist)


@triton.jit
def _gradients_kernel(
    gradient,
    x,
    residual,
    weight,
    bias,
    mean,
    inverse_std,
    sums,
    products,
    x_gradient,
    residual_gradient,
    activation: tl.constexpr,
    has_residual: tl.constexpr,
    pixels,
    groups,
    group_channels,
    pixel_stride,
    channel_stride,
    block_pixels: tl.constexpr,
    block_groups: tl.constexpr,
    block_channels: tl.constexpr,
    parts: tl.constexpr,
):
    """Gradients of the input and the residual.

    With g = weight * dz and the normalized input n, the input's is (g - mean(g) - n * mean(g * n)) / standard
    deviation, the means being over the group.
    """
    image, first_group = _place(groups, block_groups)
    base = image.to(tl.int64) * pixels * groups * group_channels
    start, stop = _share(pixels, tl.program_id(1), block_pixels, parts)
    per_group = _load_per_group(mean, image, first_group, groups, block_groups)
    center = _spread(per_group, block_groups, block_channels)
    per_group = _load_per_group(inverse_std, image, first_group, groups, block_groups)
    factor = _spread(per_group, block_groups, block_channels)

    group_sum = tl.zeros((block_groups,), tl.float32)
    group_product = tl.zeros((block_groups,), tl.float32)
    part = tl.arange(0, parts)
    for first_channel in range(0, group_channels, block_channels):
        channels, exist = _slots(first_group, first_channel, groups, group_channels, block_groups, block_channels)
        scale = tl.load(weight + channels, mask=exist, other=0.0).to(tl.float32)
        places = ((image * groups * group_channels + channels) * parts)[:, None] + part[None, :]
        channel_sum = tl.sum(tl.load(sums + places, mask=exist[:, None], other=0.0), 1)
        channel_product = tl.sum(tl.load(products + places, mask=exist[:, None], other=0.0), 1)
        group_sum += _sum_per_group(scale * channel_sum, block_groups, block_channels)
        group_product += _sum_per_group(scale * channel_product, block_groups, block_channels)
    elements = pixels * group_channels
    mean_gradient = _spread(group_sum / elements, block_groups, block_channels)[None, :]
    mean_product = _spread(group_product / elements, block_groups, block_channels)[None, :]

    for first_channel in range(0, group_channels, block_channels):
        channels, exist = _slots(first_group, first_channel, groups, group_channels, block_groups, block_channels)
        scale = tl.load(weight + channels, mask=exist, other=0.0).to(tl.float32)
        shift = tl.load(bias + channels, mask=exist, other=0.0).to(tl.float32)
        for first in range(start, stop, block_pixels):
            offsets, inside = _tile(first, stop, channels, exist, pixel_stride, channel_stride, block_pixels)
            dz, normed = _backward_tile(
                gradient + base,
                x + base,
                residual + base,
                offsets,
                inside,
                scale,
                shift,
                center,
                factor,
                activation,
                has_residual,
            )
            dx = (dz * scale[None, :] - mean_gradient - normed * mean_product) * factor[None, :]
            tl.store(x_gradient + base + offsets, dx, mask=inside)
            if has_residual:
                tl.store(residual_gradient + base + offsets, dz, mask=inside)
