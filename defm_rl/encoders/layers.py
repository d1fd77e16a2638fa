"""Pieces that the convolutional families share; `group_norm_act` is where every normalization passes through."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defm_rl import kernels
from defm_rl.depth import is_traced
from defm_rl.kernels import cpu

# They overwrite their input, which saves a tenth of the time on a processor: give them what nothing else holds.
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": partial(F.relu, inplace=True),
    "silu": partial(F.silu, inplace=True),
}


def norm_groups(channels: int) -> int:
    """Groups of a group normalization in DeFM: 32, halved until they divide the channels."""
    groups = 32
    while channels % groups:
        groups //= 2
    return groups


def group_norm_act(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    activation: str,
    residual: Tensor | None = None,
) -> Tensor:
    """activation(group_norm(x) + residual), fused where `defm_rl.kernels` serves the tensor and nothing is traced.

    Args:
        x: (B, C, H, W), contiguous or channels last.
        groups: Number of groups, a divisor of C.
        weight: (C,) scale.
        bias: (C,) shift.
        eps: Added to the variance.
        activation: A key of `ACTIVATIONS`.
        residual: Added before the activation; same shape as `x`.

    Returns:
        (B, C, H, W).
    """
    if not is_traced() and kernels.serves(x):
        return kernels.group_norm_act(x, groups, weight, bias, eps, activation, residual, _composed_group_norm_act)
    return _composed_group_norm_act(x, groups, weight, bias, eps, activation, residual)


def _composed_group_norm_act(
    x: Tensor,
    groups: int,
    weight: Tensor,
    bias: Tensor,
    eps: float,
    activation: str,
    residual: Tensor | None = None,
) -> Tensor:
    """`group_norm_act` from PyTorch's operations."""
    x = torch.group_norm(x, groups, weight, bias, eps)  # F.group_norm checks sizes in a way that tracing cannot record
    if residual is not None:
        x += residual
    return ACTIVATIONS[activation](x)


class GroupNormAct(nn.GroupNorm):
    """Group normalization, a residual where there is one, and an activation.

    Args:
        channels: Channels of the input.
        activation: "relu", "silu" or "none".
    """

    cpu_kernels = False  # see `use_cpu_kernels`

    def __init__(self, channels: int, activation: str) -> None:
        super().__init__(norm_groups(channels), channels)
        self.activation = activation

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        function = cpu.group_norm_act_ if self.cpu_kernels else group_norm_act
        return function(x, self.num_groups, self.weight, self.bias, self.eps, self.activation, residual)

    def extra_repr(self) -> str:
        """The settings of the normalization and the activation."""
        return f"{super().extra_repr()}, activation={self.activation}"


class Conv(nn.Conv2d):
    """A convolution padded by half its side, which keeps the size where the stride is 1.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        side: Side of the kernel, odd.
        stride: Stride.
        groups: Groups of the channels.
        bias: Whether a bias is added.
    """

    cpu_kernel: str | None = None  # see `use_cpu_kernels`
    packed: Tensor  # the weight as this kernel takes it
    winograds: Tensor  # and as that for 3x3 takes it too

    def __init__(
        self, in_channels: int, out_channels: int, side: int, stride: int = 1, groups: int = 1, *, bias: bool = False
    ) -> None:
        super().__init__(in_channels, out_channels, side, stride, side // 2, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride), sizes rounded up."""
        side, stride = self.kernel_size[0], self.stride[0]
        if self.cpu_kernel == "grouped":
            return cpu.grouped_conv(x, self.weight, self.packed, stride)
        if self.cpu_kernel == "3x3":
            return cpu.conv3x3(x, self.winograds, self.packed, self.bias)
        if self.cpu_kernel == "product":
            return cpu.product_conv(x, self.packed, self.bias, self.out_channels, side, stride)
        if side == stride == self.groups == 1 and x.device.type == "cpu" and has_channels_last(x):
            return self._pointwise(x)
        return super().forward(x)

    def use_cpu_kernel(self, factors: torch.dtype) -> None:
        """Packs a frozen weight for the kernel of `defm_rl.kernels.cpu` that is fastest here, if there is one.

        Args:
            factors: What products of matrices are of, float32 or bfloat16.
        """
        channels, weight = (self.in_channels, self.out_channels), self.weight
        if self.groups > 1:
            if self.in_channels == self.out_channels and self.bias is None:
                self.cpu_kernel = "grouped"
                self.register_buffer("packed", cpu.grouped_weight(weight), persistent=False)
        elif self.in_channels % 4 == 0 or self.kernel_size[0] > 3:  # of three channels and 3x3 oneDNN's are as fast
            self.cpu_kernel = "product"
            if self.in_channels % 4:
                factors = torch.float32  # what depth itself enters by
            self.register_buffer("packed", cpu.product_weight(weight, factors), persistent=False)
            if self.kernel_size[0] == 3 and self.stride[0] == 1 and not any(count % 32 for count in channels):
                self.cpu_kernel = "3x3"
                self.register_buffer("winograds", cpu.winograd_weight(weight, factors), persistent=False)
            self.weight = weight.new_empty(0)

    def _pointwise(self, x: Tensor) -> Tensor:
        """A 1x1 convolution as the matrix product that it is where the channels are last: faster on a processor."""
        # A frozen graph keeps the weights transposed, which the product reads faster.
        out = torch.matmul(x.permute(0, 2, 3, 1), self.weight[:, :, 0, 0].t().contiguous())
        if self.bias is not None:
            out += self.bias
        return out.permute(0, 3, 1, 2)


class ConvNormAct(nn.Sequential):
    """A convolution without bias (child "0") and its normalization with activation (child "1").

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        side: Side of the kernel, odd. Padding keeps the size where the stride is 1.
        stride: Stride.
        groups: Groups of the convolution.
        activation: "relu", "silu" or "none".
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        side: int = 1,
        stride: int = 1,
        groups: int = 1,
        activation: str = "none",
    ) -> None:
        super().__init__(
            Conv(in_channels, out_channels, side, stride, groups),
            GroupNormAct(out_channels, activation),
        )

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        """(B, in_channels, H, W) to (B, out_channels, H / stride, W / stride), sizes rounded up."""
        conv, norm = self
        out: Tensor = norm(conv(x), residual)
        return out


def has_channels_last(x: Tensor) -> bool:
    """Whether the channels are last in memory, and only so: of one pixel or one channel, both layouts are the same."""
    return not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


class MaxPool(nn.MaxPool2d):
    """Max pooling with the channels last, in which it is several times faster on a processor; else `nn.MaxPool2d`."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H / stride, W / stride), sizes rounded up, in the memory format of `x`."""
        if x.device.type != "cpu" or has_channels_last(x):
            return super().forward(x)
        return super().forward(x.contiguous(memory_format=torch.channels_last)).contiguous()


class SqueezeExcitation(nn.Module):
    """Scales every channel by a gate that sees the mean of all channels (Hu et al. 2018, arXiv 1709.01507).

    Args:
        channels: Channels of the input.
        squeeze_channels: Channels between the two layers of the gate.
        activation: Activation between them.
    """

    cpu_kernels = False  # see `use_cpu_kernels`

    def __init__(self, channels: int, squeeze_channels: int, activation: str) -> None:
        super().__init__()
        self.fc1 = nn.Conv2d(channels, squeeze_channels, 1)
        self.fc2 = nn.Conv2d(squeeze_channels, channels, 1)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W)."""
        if self.cpu_kernels:
            # A frozen graph keeps the weights transposed.
            weight1, weight2 = (fc.weight.flatten(1).t().contiguous() for fc in (self.fc1, self.fc2))
            assert self.fc1.bias is not None
            assert self.fc2.bias is not None
            return cpu.squeeze_excite_(x, weight1, self.fc1.bias, weight2, self.fc2.bias, self.activation)
        # The two layers are 1x1 convolutions by name; of one pixel, they are faster as what they are.
        gate = _linear(self.fc1, x.mean((2, 3)))
        gate = _linear(self.fc2, ACTIVATIONS[self.activation](gate)).sigmoid()
        return x * gate[:, :, None, None]


def _linear(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return F.linear(x, conv.weight.flatten(1), conv.bias)


def use_cpu_kernels(net: nn.Module, factors: torch.dtype) -> None:
    """Has a frozen float32 network on a processor use the operations of `defm_rl.kernels.cpu`, where there are any.

    Some write over what they get, which saves passes over memory: nothing else may hold it, nothing is differentiated.

    Args:
        net: The network.
        factors: What products of matrices are of, float32 or bfloat16. Their sums, and all else, are float32.
    """
    if cpu.available():
        for module in net.modules():
            if isinstance(module, Conv):
                module.use_cpu_kernel(factors)
            elif isinstance(module, GroupNormAct | SqueezeExcitation):
                module.cpu_kernels = True


class StochasticDepth(nn.Module):
    """Drops whole images of a residual branch at random while training (Huang et al. 2016, arXiv 1603.09382).

    Args:
        probability: Probability that an image is dropped. What stays is scaled up, so that the mean stays.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C, H, W); the input itself in evaluation mode."""
        if not self.training or self.probability == 0.0:
            return x
        keep = 1.0 - self.probability
        mask = x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(keep)
        return x * (mask / keep)

    def extra_repr(self) -> str:
        """The probability."""
        return f"probability={self.probability:.3f}"


@torch.no_grad()
def init_convolutions(module: nn.Module) -> None:
    """Draws random convolution weights after He et al. 2015 (fan out), with zero biases.

    Normalizations keep scale 1 at the end of residual branches too: zeroing it, as is usual before long training, would
    make every block an identity and random features blank.
    """
    for layer in module.modules():
        # Without memory there is nothing to draw, and PyTorch would import its compiler for it, which takes seconds.
        if isinstance(layer, nn.Conv2d) and not layer.weight.is_meta:
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
