"""The kernels of simulated cameras for processors against PyTorch's operations, of every set of instructions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.utils.flop_counter
from processes import run
from torch import Tensor

from defm_rl.kernels import cpu_sensors
from defm_rl.sensors import SENSORS, Noise, simulate
from defm_rl.sensors import operators as op

pytestmark = pytest.mark.skipif(not cpu_sensors.available(), reason="no C++ compiler, or not Linux")

SIZES = [(64, 64), (17, 23), (3, 5), (1, 1)]


def both(monkeypatch: pytest.MonkeyPatch, compute: Callable[[], Tensor]) -> tuple[Tensor, Tensor]:
    """What the kernels compute, and what PyTorch's operations do."""
    ours = compute()
    with monkeypatch.context() as patch:
        patch.setattr(cpu_sensors, "available", lambda: False)
        return ours, compute()


def random(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0))


def scene(height: int, width: int, batch: int = 6) -> Tensor:
    """Slanted surfaces, a box, something too close over whole columns, and holes."""
    depth = random(batch, height, width).cumsum(2) / 8 + 0.5
    depth[:, height // 3 : height // 2, width // 4 : width // 2] = 0.6
    depth[:, :, width // 2 : width // 2 + 3] = 0.1
    depth[:, ::9, ::7] = 0.0
    return depth


def noise(batch: int = 6) -> Noise:
    return Noise(7, torch.arange(batch) - 2, torch.arange(batch) * 2**33 + 5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SENSORS)
def test_cameras_measure_the_same(monkeypatch: pytest.MonkeyPatch, name: str, size: tuple[int, int]) -> None:
    depth = scene(*size)
    ours, expected = both(monkeypatch, lambda: simulate(depth, name, seed=3, step=5))
    # Rounding can take a pixel to the next step of disparity, or over an edge.
    assert ((ours - expected).abs() > 1e-5).float().mean() < 2e-3
    assert ours.shape == expected.shape


def test_random_numbers_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for shape in ((1,), (5,), (16,), (61, 63)):
        assert torch.equal(*both(monkeypatch, lambda shape=shape: noise().uniform(*shape)))
        torch.testing.assert_close(*both(monkeypatch, lambda shape=shape: noise().normal(*shape)), rtol=0, atol=4e-6)
    sigma, mean = random(6, 61, 63), random(6, 61, 63) + 1
    for deviation in (sigma, 0.3):
        ours, expected = both(monkeypatch, lambda deviation=deviation: noise().around(mean, deviation))
        torch.testing.assert_close(ours, expected, rtol=0, atol=4e-6)


@pytest.mark.parametrize("size", SIZES)
def test_operators_are_the_same(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    x, depth = random(6, *size), scene(*size)
    disparity = op.inverse(depth) * 3
    exact: list[Callable[[], Tensor]] = [
        lambda: op.choose(x, 0.2, 0.6, depth, 7.0),
        lambda: op.choose(x.where(x > 0.1, torch.nan), 0.2, 0.6, 7.0, depth),
        lambda: op.within(depth, 0.6, 2.0, x - 0.5),
        lambda: op.pick(x - 0.5, (1.0, 2.0, 3.0), 1000.0),
        *(lambda reach=reach: op.occluded(disparity, reach, 0.5 - x) for reach in (0.5, 9.0, 500.0)),
        *(lambda width=width: op.near_edges(disparity, 1.0, width, x) for width in (0.4, 1.0, 3.6)),
        *(lambda count=count, dim=dim: op.running_max(x, count, dim) for count in (1, 3, 62) for dim in (1, 2)),
    ]
    for compute in exact:
        assert torch.equal(*both(monkeypatch, compute))
    for compute in (lambda: op.box_sum(x), lambda: op.difference_from_surroundings(x)):
        torch.testing.assert_close(*both(monkeypatch, compute))
    # An angle of nearly 0 has a cosine of nearly 1, whose last digits it depends on.
    torch.testing.assert_close(*both(monkeypatch, lambda: op.surface_angle(depth, 50.0)), rtol=0, atol=2e-3)


def test_threads_do_not_change_anything(monkeypatch: pytest.MonkeyPatch) -> None:
    depth = scene(17, 23, batch=5)
    alone = [simulate(depth, name) for name in SENSORS]
    monkeypatch.setattr(cpu_sensors, "_LEAST_PIXELS", 1)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    for name, expected in zip(SENSORS, alone, strict=True):
        assert torch.equal(simulate(depth, name), expected)


def test_watched_and_derived_operations_are_pytorchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_sensors, "_call", lambda *_: pytest.fail("ran"))
    with torch.utils.flop_counter.FlopCounterMode(display=False):
        simulate(scene(8, 12), "stereo_ladder")
    depth = scene(8, 12).requires_grad_()
    op.choose(depth, 0.5, 2.0, depth).sum().backward()  # type: ignore[no-untyped-call]
    assert depth.grad is not None
    assert torch.equal(depth.grad, ((depth >= 0.5) & (depth < 2.0)).float())
    monkeypatch.setattr("defm_rl.sensors.noise.is_traced", lambda: True)
    simulate(scene(8, 12), "stereo_ladder")


@pytest.mark.slow
@pytest.mark.parametrize("capability", ["avx2", "default"])
def test_every_set_of_instructions(capability: str, tmp_path: Path) -> None:
    output = run(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "not every_set and not watched"),
        ATEN_CPU_CAPABILITY=capability,
        XDG_CACHE_HOME=str(tmp_path),
    )
    assert "skipped" not in output
    assert len(list(tmp_path.glob("defm_rl/sensors-*.so"))) == 1
