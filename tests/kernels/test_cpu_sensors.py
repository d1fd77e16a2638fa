"""The kernels of simulated cameras for processors against PyTorch's operations, of every set of instructions."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.utils.flop_counter
from processes import run
from torch import Tensor

from defm_rl.kernels import cpu_sensors
from defm_rl.sensors import SENSORS, Noise, make_sensor, simulate
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
    assert torch.equal(*both(monkeypatch, lambda: noise().held(10).uniform(5)))
    assert torch.equal(
        *both(monkeypatch, lambda: Noise(0, torch.tensor([5, -5]), torch.tensor([-3, -30]), held=7)._low)
    )


# Cameras with one effect, whose arithmetic rounds alike.
STEREO = {"disparity_sigma_px": 0.0, "hole_probability": 0.0, "native_width_px": 64, "horizontal_fov_deg": 60.0}
BLOCKS = {"near_sigma_m": 0.0, "far_sigma_m": 0.0, "too_close_m": 0.7, "column_share": 0.3}
EXACT = [
    *(make_sensor("stereo", **STEREO, max_disparity_px=reach) for reach in (0.5, 9.0, 500.0)),
    *(make_sensor("stereo", **STEREO, occlusion=False, edge_width_px=width) for width in (0.4, 1.0, 3.6)),
    make_sensor("stereo", **STEREO, occlusion=False, patch_share=0.3, patch_size_px=3.0),
    *(
        make_sensor("realsense_parkour", **BLOCKS, block_height_px=height, block_width_px=width)
        for height, width in ((1, 62), (62, 1), (3, 5))
    ),
    make_sensor("dextrah", shift_sigma_px=0.0, disparity_sigma_steps=0.0, normal_sigma_m=0.0, stick_probability=0.01),
]


@pytest.mark.parametrize("size", SIZES)
def test_single_effects_are_the_same(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    depth = scene(*size)
    for sensor in EXACT:
        ours, expected = both(monkeypatch, lambda sensor=sensor: simulate(depth, sensor, seed=3, step=5))
        torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", SIZES)
def test_operators_are_the_same(monkeypatch: pytest.MonkeyPatch, size: tuple[int, int]) -> None:
    x, depth = random(6, *size), scene(*size)
    exact: list[Callable[[], Tensor]] = [
        lambda: op.choose(x, 0.2, 0.6, depth, 7.0),
        lambda: op.choose(x.where(x > 0.1, torch.nan), 0.2, 0.6, 7.0, depth),
        lambda: op.within(depth, 0.6, 2.0, x - 0.5),
    ]
    for compute in exact:
        assert torch.equal(*both(monkeypatch, compute))
    for size_px in (0.1, 1.7, 30.0):
        fields = both(monkeypatch, lambda size_px=size_px: op.smooth_field(noise(), *size, size_px))
        torch.testing.assert_close(*fields, rtol=0, atol=1e-5)


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
