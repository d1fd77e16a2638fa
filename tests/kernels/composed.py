"""Group normalization, residual and activation from PyTorch's operations: what every kernel is held against."""

import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {"none": lambda z: z, "relu": F.relu, "silu": F.silu}


def expected_of(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, activation: str, residual: Tensor | None, eps: float = 1e-5
) -> Tensor:
    z = F.group_norm(x, groups, weight, bias, eps)
    return ACTIVATIONS[activation](z if residual is None else z + residual)
