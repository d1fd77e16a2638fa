"""The normalization for processors, of every set of instructions; what it computes is in `tests/test_depth.py`."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
import torch.utils.flop_counter
from processes import run
from torch import Tensor
from torch.autograd import forward_ad

from defm_rl import normalize_depth
from defm_rl.depth import _normalize_traceable, normalize_channels, target_size
from defm_rl.kernels import cpu_depth

pytestmark = pytest.mark.skipif(not cpu_depth.available(), reason="no C++ compiler, or not Linux")

TESTS = Path(__file__).parents[1]


def depth_of(*shape: int, farthest: float = 20.0) -> Tensor:
    depth = torch.rand(shape, generator=torch.Generator().manual_seed(0)) * farthest
    flat = depth.view(-1)
    flat[::7], flat[::11], flat[3::23], flat[1::29], flat[2::31] = 0.0, torch.nan, -1.0, torch.inf, 200.0
    return depth


@pytest.mark.sweep(7)
# Rows that fill vectors and that do not, fewer pixels than a vector; growing, shrinking, to one pixel, of one pixel.
@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ((3, 64, 64), None),
        ((2, 61, 47), None),
        ((5, 1, 1), None),
        ((2, 1, 5), None),
        ((2, 61, 47), (33, 20)),
        ((2, 61, 47), (133, 90)),
        ((2, 61, 47), (13, 90)),
        ((5, 7, 5), (3, 11)),
        ((1, 240, 320), (24, 32)),
        ((2, 9, 9), (1, 1)),
        ((2, 1, 1), (3, 2)),
    ],
    ids=str,
)
@pytest.mark.parametrize("pad_to", [None, 8])
@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("farthest", [5.0, 60.0])
def test_is_the_definition(
    monkeypatch: pytest.MonkeyPatch,
    shape: tuple[int, int, int],
    size: tuple[int, int] | None,
    pad_to: int | None,
    threads: int,
    farthest: float,
) -> None:
    monkeypatch.setattr(cpu_depth, "_LEAST_PIXELS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    # PyTorch's weights of a resize depend on the dtype: here they are those of float32, and all else is in float64.
    monkeypatch.setattr("defm_rl.depth._resize", resized_in_float64)
    depth = depth_of(*shape, farthest=farthest)
    depth[0] = depth[0].where(depth[0] < 9.0, 2.0)  # one without anything beyond the second channel's range
    channels = normalize_channels(depth, size, pad_to)
    expected = _normalize_traceable(depth.double(), target_size(*shape[1:], size), pad_to)
    assert channels.dtype == torch.float32
    assert channels.shape == expected.shape
    assert (channels - expected).abs().max() < 3e-6


def test_other_layouts_than_rows() -> None:
    depth = depth_of(3, 12, 20)
    expected = normalize_depth(depth)
    assert torch.equal(normalize_depth(depth.mT.contiguous().mT), expected)
    assert torch.equal(normalize_depth(depth.repeat_interleave(2, 2)[..., ::2]), expected)


def test_logarithms_are_right_to_the_last_digits() -> None:
    depth = torch.cat([torch.logspace(-40, 2, 100_000), torch.linspace(0.0, 100.0, 100_000)])[None]
    depth[0, 0], depth[0, -1] = 0.0, 100.0
    first = normalize_depth(depth[None])[0, 0, 0].double()
    exact = normalize_depth(depth[None].double())[0, 0, 0]
    # The channel's own rounding is half a unit in the last place, up to 4 in size; a logarithm's is multiplied by 1.55.
    assert (first - exact).abs().max() < 8e-7


@pytest.mark.sweep(5)
@pytest.mark.parametrize("size", [1, 2, 7, 64, 96, 240])
@pytest.mark.parametrize("resized", [1, 3, 14, 20, 64, 100, 224])
def test_pixels_are_made_of_those_that_pytorch_takes(size: int, resized: int) -> None:
    starts, weights = cpu_depth.taps(size, resized)
    matrix = torch.zeros(resized, size)
    for row, start, some in zip(matrix, starts, weights, strict=True):
        row[start : start + len(some)] = torch.from_numpy(some)
    assert torch.equal(matrix, pytorchs_matrix(size, resized))


def pytorchs_matrix(size: int, resized: int) -> Tensor:
    """(resized, size): how much of each pixel of an axis PyTorch takes."""
    identity = torch.eye(size)[:, None, None]
    return F.interpolate(identity, (1, resized), mode="bilinear", align_corners=False, antialias=True)[:, 0, 0].t()


def resized_in_float64(planes: Tensor, size: tuple[int, int]) -> Tensor:
    rows, columns = (pytorchs_matrix(*sides).double() for sides in zip(planes.shape[2:], size, strict=True))
    return rows @ planes.double() @ columns.t()


def test_watched_and_derived_operations_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """What records or derives operations would not see ours."""
    monkeypatch.setattr(cpu_depth, "normalize", lambda *_: pytest.fail("ran"))
    depth = depth_of(2, 8, 12)
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        normalize_depth(depth)
    with forward_ad.dual_level(), pytest.raises(NotImplementedError):
        normalize_channels(forward_ad.make_dual(depth, torch.ones_like(depth)))


def test_depth_without_pixels_is_pytorchs_too() -> None:
    assert normalize_channels(torch.empty(0, 8, 12)).shape == (0, 3, 8, 12)
    with pytest.raises(IndexError):
        normalize_channels(torch.empty(2, 0, 5))


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["avx2", pytest.param("default", marks=pytest.mark.slow)])
def test_every_set_of_instructions(capability: str, tmp_path: Path) -> None:
    tests = [str(TESTS / "test_depth.py"), __file__, "-k", "not every_set and not PyTorch"]
    output = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "", *tests),
        ATEN_CPU_CAPABILITY=capability,
        XDG_CACHE_HOME=str(tmp_path),
    )
    assert "skipped" not in output
    assert len(list(tmp_path.glob("defm_rl/depth-*.so"))) == 1
