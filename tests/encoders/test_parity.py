"""Every network equals the published one: parameter names, shapes and outputs."""

import numpy as np
import pytest
import torch
from reference import load_reference_weights, reference_facts, reference_outputs
from torch import Tensor, nn

from defm_rl.depth import normalize_depth
from defm_rl.encoders.architectures import ARCHITECTURES, build_network

MAX_RELATIVE_ERROR = 1e-4


def outputs(net: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """The outputs that the reference has, under its names and with the channels that it kept."""
    out = net(x)
    if "P14" in out.maps:
        return {"class_token": out.global_features, "spatial": out.maps["P14"]}
    plain = net(x, bifpn=False)
    assert torch.equal(plain.global_features, out.global_features)
    return {
        "global_backbone": out.global_features,
        **{f"dense_bifpn/{level}": m[:1, ::8] for level, m in out.maps.items()},
        **{f"dense_feats/{level}": m[:1, ::16] for level, m in plain.maps.items()},
    }


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n == "defm_vit_l14" else ()) for n in ARCHITECTURES]
)
def test_network_equals_the_published_one(name: str) -> None:
    facts = reference_facts(name)
    net = build_network(name)
    shapes = {key: list(tensor.shape) for key, tensor in net.state_dict().items()}
    assert list(shapes.items()) == list(facts["state_dict"].items())
    assert sum(p.numel() for p in net.parameters()) == facts["parameters"]

    load_reference_weights(net)
    for size, expected in reference_outputs(name).items():
        with torch.no_grad():
            got = outputs(net, normalize_depth(expected.pop("depth")))
        assert got.keys() == expected.keys()
        for key, reference in expected.items():
            assert got[key].shape == reference.shape, (size, key)
            error = np.abs(got[key].numpy() - reference).max() / np.abs(reference).max()
            assert error <= MAX_RELATIVE_ERROR, (size, key, error)
