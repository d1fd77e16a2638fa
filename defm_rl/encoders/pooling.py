"""How a feature map becomes a vector."""

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn

POOLS = ("mean", "columns", "grid", "spatial_softmax", "attention", "flatten")
SIZED_POOLS = ("columns", "flatten")
"""Those that give as many features as the map is large."""


class GridAverage(nn.Module):
    """Averages over a grid of `rows` x `columns` cells: coarse, but knows where things are.

    Args:
        rows: Rows of the grid.
        columns: Columns of the grid.
        map_size: Height and width of the map where they are known: what averages it is then made once.
    """

    over_rows: Tensor
    over_columns: Tensor

    def __init__(self, rows: int, columns: int, map_size: tuple[int, int] | None = None) -> None:
        super().__init__()
        self.rows, self.columns = rows, columns
        self.map_size = map_size
        if map_size is not None:
            # Made on the CPU: for arithmetic on the meta device PyTorch would import its compiler, which takes seconds.
            made, here = torch.empty(0, dtype=torch.float32, device="cpu"), torch.empty(0).device
            self.register_buffer("over_rows", _averaging_matrix(map_size[0], rows, made).to(here), persistent=False)
            self.register_buffer(
                "over_columns", _averaging_matrix(map_size[1], columns, made).to(here), persistent=False
            )

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C * rows * columns)."""
        height, width = feature_map.shape[-2:]
        if (height, width) == self.map_size:
            over_rows, over_columns = self.over_rows, self.over_columns
        else:
            over_rows = _averaging_matrix(height, self.rows, feature_map)
            over_columns = _averaging_matrix(width, self.columns, feature_map)
        return (over_rows @ feature_map @ over_columns.T).flatten(1)

    def extra_repr(self) -> str:
        """The grid."""
        return f"rows={self.rows}, columns={self.columns}"


def _averaging_matrix(size: int, bins: int, like: Tensor) -> Tensor:
    """The (bins, size) matrix that averages `size` cells into `bins` ranges, cut where adaptive average pooling cuts.

    A matrix and not `adaptive_avg_pool2d`: ONNX has no adaptive pooling for sizes that do not divide. It is made on the
    device of `like`, and in its dtype: a copy would wait for the device, and could not be part of a CUDA graph.
    """
    cells, index = torch.arange(size, device=like.device), torch.arange(bins, device=like.device)[:, None]
    inside = (cells >= index * size // bins) & (cells < ((index + 1) * size + bins - 1) // bins)
    return (inside / inside.sum(1, keepdim=True)).to(like.dtype)


class SpatialSoftmax(nn.Module):
    """Expected image coordinates of each channel's activation, in [-1, 1] (Levine et al. 2016, arXiv 1504.00702)."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, H, W) to (B, 2 C): x of all channels, then y of all channels."""
        height, width = feature_map.shape[-2:]
        weights = feature_map.flatten(2).softmax(-1).unflatten(-1, (height, width))
        x = torch.linspace(-1.0, 1.0, width, device=feature_map.device, dtype=feature_map.dtype)
        y = torch.linspace(-1.0, 1.0, height, device=feature_map.device, dtype=feature_map.dtype)
        return torch.cat([(weights.sum(2) * x).sum(-1), (weights.sum(3) * y).sum(-1)], dim=1)


class AttentionPool(nn.Module):
    """One learned query attends over the cells of the map; always trained with the policy."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.score = nn.Linear(channels, 1)
        nn.init.zeros_(self.score.weight)  # starts as the mean over the map

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C)."""
        cells = feature_map.flatten(2).transpose(1, 2)
        weights = self.score(self.norm(cells)).softmax(dim=1)
        return (weights * cells).sum(1)


class Mean(nn.Module):
    """The mean over all cells."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C)."""
        return feature_map.mean((2, 3))


class Columns(nn.Module):
    """The mean over height: what lies in each direction, for robots that turn."""

    def forward(self, feature_map: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C * W)."""
        return feature_map.mean(2).flatten(1)


def make_pool(pool: str, channels: int, map_size: tuple[int, int] | None, grid: Sequence[int]) -> tuple[nn.Module, int]:
    """A module from (B, C, H, W) to (B, D), and D.

    Args:
        pool: One of `POOLS`.
        channels: Channels of the map.
        map_size: Height and width of the map in cells; needed by "columns" and "flatten".
        grid: Rows and columns for "grid".

    Raises:
        ValueError: For an unknown pool, a grid that is not two positive numbers, or a pool whose size depends on the
            image where the image's size is not known.
    """
    if pool not in POOLS:
        raise ValueError(f"pool must be one of {', '.join(POOLS)}; got {pool!r}.")
    if pool in SIZED_POOLS and map_size is None:
        raise ValueError(
            f"pool={pool!r} gives as many features as the image is large: pass image_size=(height, width) of the depth."
        )
    if pool == "grid" and not _is_grid(grid):
        raise ValueError(f"grid must be (rows, columns), two whole numbers of at least 1; got {grid!r}.")
    height, width = map_size or (0, 0)
    choices: dict[str, Callable[[], tuple[nn.Module, int]]] = {
        "mean": lambda: (Mean(), channels),
        "columns": lambda: (Columns(), channels * width),
        "grid": lambda: (GridAverage(grid[0], grid[1], map_size), channels * math.prod(grid)),
        "spatial_softmax": lambda: (SpatialSoftmax(), 2 * channels),
        "attention": lambda: (AttentionPool(channels), channels),
        "flatten": lambda: (nn.Flatten(), channels * height * width),
    }
    return choices[pool]()


def _is_grid(grid: Any) -> bool:
    return isinstance(grid, Sequence) and len(grid) == 2 and all(isinstance(n, Integral) and int(n) >= 1 for n in grid)
