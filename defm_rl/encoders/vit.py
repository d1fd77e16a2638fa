"""Vision transformers in the layout of DINOv2 (Oquab et al. 2023, arXiv 2304.07193) with SwiGLU feed-forward layers."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from defm_rl.encoders.base import Encoder
from defm_rl.encoders.output import EncoderOutput

PATCH = 14
# Published position embeddings belong to images of 224x224 pixels.
GRID = 16
CHUNKS = 4
# DINOv2 adds this to the number of patches where it computes the scale of the interpolation, so that rounding never
# loses a row. Its weights were trained with the shifted positions that this gives.
INTERPOLATION_OFFSET = 0.1


class Attention(nn.Module):
    """Multi-head self-attention over tokens."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) to (B, N, dim)."""
        q, k, v = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(attended.transpose(1, 2).flatten(2))
        return out


class SwiGLU(nn.Module):
    """A gated feed-forward layer (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Two thirds of the usual 4 * dim, for the gate's parameters come on top, then up to a multiple of 8.
        hidden = math.ceil(4 * dim * 2 // 3 / 8) * 8
        self.w12 = nn.Linear(dim, 2 * hidden)
        self.w3 = nn.Linear(hidden, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) to (B, N, dim)."""
        gate, value = self.w12(x).chunk(2, dim=-1)
        out: Tensor = self.w3(F.silu(gate) * value)
        return out


class LayerScale(nn.Module):
    """A learned factor per channel on a residual branch."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        # Not the tiny value that long training starts from: it would leave random features without attention.
        self.gamma = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) to (B, N, dim)."""
        return x * self.gamma


class Block(nn.Module):
    """Attention, then the feed-forward layer, each normalized before and scaled after, each with a skip."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=1e-6)
        self.attn = Attention(dim, heads)
        self.ls1 = LayerScale(dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-6)
        self.mlp = SwiGLU(dim)
        self.ls2 = LayerScale(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(B, N, dim) to (B, N, dim)."""
        x = x + self.ls1(self.attn(self.norm1(x)))
        out: Tensor = x + self.ls2(self.mlp(self.norm2(x)))
        return out


class PatchEmbedding(nn.Module):
    """Cuts an image into square patches and projects each to a token."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, dim, PATCH, stride=PATCH)

    def forward(self, x: Tensor) -> Tensor:
        """(B, 3, H, W) to (B, dim, H / 14, W / 14)."""
        out: Tensor = self.proj(x)
        return out


@dataclass(frozen=True)
class ViTConfig:
    """A vision transformer: channels of a token, number of blocks, attention heads."""

    dim: int
    depth: int
    heads: int


VIT_S14 = ViTConfig(384, 12, 6)
VIT_L14 = ViTConfig(1024, 24, 16)


class VisionTransformer(Encoder):
    """A DeFM vision transformer. Its global features are the class token, its one map "P14" the patch tokens."""

    shares_batches = False  # PyTorch shares its large products better

    def __init__(self, config: ViTConfig) -> None:
        super().__init__()
        dim = config.dim
        self.channels = {"global": dim, "P14": dim}
        self.bifpn_channels = None
        self.strides = {"P14": PATCH}
        self.size_multiple = PATCH

        self.cls_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + GRID * GRID, dim))
        self.mask_token = nn.Parameter(torch.zeros(1, dim))  # of the pretraining; part of the checkpoints, without use
        self.patch_embed = PatchEmbedding(dim)
        # Checkpoints hold the blocks in chunks, and number them through.
        self.blocks = nn.ModuleList(nn.Sequential() for _ in range(CHUNKS))
        for i in range(config.depth):
            self.blocks[i * CHUNKS // config.depth].add_module(str(i), Block(dim, config.heads))
        self.norm = nn.LayerNorm(dim, eps=1e-6)
        self._init_weights()

    def forward(self, x: Tensor, bifpn: bool = True, features: Collection[str] | None = None) -> EncoderOutput:
        """Features of a batch of images.

        Args:
            x: (B, 3, H, W), from `normalize_depth`; height and width multiples of 14.
            bifpn: Without effect: there is none.
            features: Some of "global" and "P14"; None for both.

        Returns:
            Global features (B, C) and the map (B, C, H / 14, W / 14).

        Raises:
            ValueError: For an unknown feature, or a size that is no multiple of 14.
        """
        wants_global, levels = self._selected(features)
        self._check_size(x, "Resize with normalize_depth(..., multiple_of=14).")

        tokens, grid = self._embed(x)
        for chunk in self.blocks:
            tokens = chunk(tokens)

        global_features = self.norm(tokens[:, 0]) if wants_global else None
        maps = {}
        if levels:
            maps["P14"] = _as_map(self.norm(tokens[:, 1:]), grid)
        return EncoderOutput(global_features, maps)

    def get_intermediate_layers(
        self,
        x: Tensor,
        n: int | Sequence[int] = 1,
        reshape: bool = False,
        return_class_token: bool = False,
        norm: bool = True,
    ) -> tuple[Tensor, ...] | tuple[tuple[Tensor, Tensor], ...]:
        """What blocks give, under the name and with the arguments that it has in DINOv2 and in the package `defm`.

        Args:
            x: (B, 3, H, W), from `normalize_depth`; height and width multiples of 14.
            n: That many last blocks; or the blocks themselves, counted from 0.
            reshape: Patch tokens as maps (B, C, H / 14, W / 14) in place of (B, N, C).
            return_class_token: Also give each block's class token, (B, C).
            norm: Pass the tokens through the network's last normalization, which was trained for the last block.

        Returns:
            The patch tokens of each block in the order in which blocks run, or pairs of patch tokens and class token.

        Raises:
            ValueError: There are no such blocks, one is asked for twice, or the size is no multiple of 14.
        """
        self._check_size(x, "Resize with normalize_depth(..., multiple_of=14).")
        blocks = [block for chunk in self.blocks for block in chunk.children()]
        wanted = range(len(blocks) - n, len(blocks)) if isinstance(n, int) else list(n)
        if not wanted or len(set(wanted)) < len(wanted) or not set(wanted) <= set(range(len(blocks))):
            raise ValueError(
                f"n must be a number of blocks from 1 to {len(blocks)}, or a list of blocks from 0 to "
                f"{len(blocks) - 1}, each once; got {n!r}."
            )
        tokens, grid = self._embed(x)
        taken = []
        for i, block in enumerate(blocks[: max(wanted) + 1]):
            tokens = block(tokens)
            if i in wanted:
                taken.append(self.norm(tokens) if norm else tokens)
        patches = [_as_map(out[:, 1:], grid) if reshape else out[:, 1:] for out in taken]
        return (
            tuple((p, out[:, 0]) for p, out in zip(patches, taken, strict=True))
            if return_class_token
            else tuple(patches)
        )

    def _embed(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Tokens (B, 1 + rows * columns, C) of images, the class token first, and the rows and columns of patches."""
        patches = self.patch_embed(x)
        rows, columns = (int(side) for side in patches.shape[-2:])
        tokens = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), patches.flatten(2).transpose(1, 2)), dim=1)
        return tokens + positions(self.pos_embed, rows, columns), (rows, columns)

    def stage_prefixes(self) -> dict[str, tuple[str, ...]]:
        """The stages from input to output; each parameter's name starts with exactly one of all the prefixes."""
        chunks = {f"blocks{i}": (f"blocks.{i}.",) for i in range(CHUNKS)}
        return {"embed": ("cls_token", "pos_embed", "mask_token", "patch_embed."), **chunks, "norm": ("norm.",)}

    @torch.no_grad()
    def _init_weights(self) -> None:
        if self.pos_embed.is_meta:
            return  # nothing to draw; see `init_convolutions`
        nn.init.trunc_normal_(self.pos_embed, std=0.02)
        nn.init.normal_(self.cls_token, std=0.02)
        for layer in self.modules():
            if isinstance(layer, nn.Linear | nn.Conv2d):
                # Keeps the variance from layer to layer (LeCun), so that random features carry the image through.
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


def _as_map(patches: Tensor, grid: tuple[int, int]) -> Tensor:
    """(B, rows * columns, C) to (B, C, rows, columns)."""
    return patches.transpose(1, 2).unflatten(2, grid)


def positions(pos_embed: Tensor, rows: int, columns: int) -> Tensor:
    """Position embeddings of the class token and of a grid of patches.

    Args:
        pos_embed: (1, 1 + 256, C), the class token's and those of a grid of 16x16.
        rows: Rows of the grid that is wanted.
        columns: Its columns.

    Returns:
        (1, 1 + rows * columns, C), interpolated bicubically, as DINOv2 does, where the grid is another one.
    """
    if (rows, columns) == (GRID, GRID):
        return pos_embed
    grid = pos_embed[:, 1:].float().transpose(1, 2).reshape(1, -1, GRID, GRID)
    scale = ((rows + INTERPOLATION_OFFSET) / GRID, (columns + INTERPOLATION_OFFSET) / GRID)
    grid = F.interpolate(grid, scale_factor=scale, mode="bicubic")
    patches = grid.flatten(2).transpose(1, 2).to(pos_embed.dtype)
    return torch.cat((pos_embed[:, :1], patches), dim=1)
