"""Depth encoded inside a policy, beside its other observations."""

import torch
from fake_envs import ENCODER, DepthEnv

from defm_rl.fusion import DepthFusion
from defm_rl.observations import leaves


def test_nested_observations_are_taken_as_flat_ones_are():
    """As skrl gives them back, in the structure of the environment's space."""
    torch.manual_seed(0)
    nested = DepthFusion(DepthEnv(nested=True).observation_space, ENCODER, latent_dim=8)
    torch.manual_seed(0)
    flat = DepthFusion(DepthEnv().observation_space, ENCODER, latent_dim=8)
    depth, state = torch.rand(2, 1, 32, 32) * 5, torch.rand(2, 3)
    observations = {"sensor_data": {"depth": {"depth": depth}}, "state": state}
    assert set(leaves(observations)) == {"sensor_data/depth/depth", "state"}
    torch.testing.assert_close(nested(observations), flat({"depth": depth, "state": state}))
    assert nested.out_dim == flat.out_dim == 11
