"""Whole encoders with the kernels and without."""

import pytest
import torch

from defm_rl import kernels
from defm_rl.encoders.architectures import build_network
from defm_rl.kernels.group_norm import FusedGroupNormAct

pytestmark = pytest.mark.usefixtures("no_fallback")


@pytest.mark.parametrize("name", ["defm_regnet_y_400mf", "defm_resnet18"])
def test_features_are_the_same(device: torch.device, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Channels last, which gives the interpreter fewer programs to run."""
    layout, features = torch.channels_last, ("P4", "global")
    torch.manual_seed(0)
    net = build_network(name).eval().to(device, memory_format=layout)
    x = torch.randn(1, 3, 32, 32, device=device).contiguous(memory_format=layout)
    calls = []
    apply = FusedGroupNormAct.apply
    monkeypatch.setattr(FusedGroupNormAct, "apply", lambda *args: calls.append(1) or apply(*args))
    with torch.no_grad():
        fused = net(x, bifpn=False, features=features)
        assert len(calls) >= 10
        monkeypatch.setattr(kernels, "device_types", set())
        composed = net(x, bifpn=False, features=features)
    pairs = [(fused.maps[level], composed.maps[level]) for level in composed.maps]
    if composed.global_features is not None:
        pairs.append((fused.global_features, composed.global_features))
    for got, expected in pairs:
        assert (got - expected).abs().max() <= 1e-5 * expected.abs().max()
