"""Encoders in several processes: what is frozen stays where it is, and gradients of what is trained are averaged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed, nn

from defm_rl import DepthEncoder
from defm_rl.encoders import keep_frozen_local

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="PyTorch is built without it")

POLICY = """
import sys, torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from defm_rl import DepthEncoder
from defm_rl.encoders import keep_frozen_local
rank = int(sys.argv[1])
torch.set_num_threads(1)
distributed.init_process_group("gloo", init_method=f"file://{sys.argv[2]}", rank=rank, world_size=2)

class Policy(nn.Module):
    def __init__(self, trainable):
        super().__init__()
        settings = {"features": ["global", "P4"], "pool": "grid", "image_size": (32, 32), "bifpn": False}
        self.encoder = DepthEncoder("regnet_y_400mf", weights="random", trainable=trainable, **settings)
        torch.manual_seed(0)
        self.head = nn.Linear(self.encoder.feature_dim, 2)

    def forward(self, depth):
        return self.head(self.encoder(depth))

depth = torch.rand(2, 32, 32, generator=torch.Generator().manual_seed(rank)) * 5

def mean_gradients(policy):
    policy(depth).square().mean().backward()
    gradients = [p.grad.clone() for p in policy.parameters()]
    policy.zero_grad()
    for gradient in gradients:
        distributed.all_reduce(gradient)
    return [gradient / 2 for gradient in gradients]
"""

DATA_PARALLEL = """
for trainable in ("none", ["head"]):
    policy = Policy(trainable)
    expected = mean_gradients(policy)
    keep_frozen_local(policy)
    versions = {name: x._version for name, x in policy.named_buffers()}
    parallel = DistributedDataParallel(policy)
    runners = set()
    for _ in range(3):
        policy.zero_grad()
        parallel(depth).square().mean().backward()
        runners.add(policy.encoder._runner)
    assert {name: x._version for name, x in policy.named_buffers()} == versions, "frozen weights were written"
    assert len(runners) == 1, "the graph was made anew"
    for parameter, gradient in zip(policy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
    again = Policy(trainable)
    again.load_state_dict(parallel.module.state_dict())
"""

SHARDED = """
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
for trainable in ("none", ["head"]):
    policy = Policy(trainable)
    expected = mean_gradients(policy)
    versions = {name: x._version for name, x in policy.named_buffers()}
    fully_shard(policy, mesh=init_device_mesh("cpu", (2,)))
    runners = set()
    for _ in range(3):
        policy.zero_grad()
        policy(depth).square().mean().backward()
        runners.add(policy.encoder._runner)
    assert {name: x._version for name, x in policy.named_buffers()} == versions, "frozen weights were written"
    assert len(runners) == 1, "the graph was made anew"
    for parameter, gradient in zip(policy.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad.full_tensor(), gradient, rtol=1e-3, atol=1e-5)
"""


@pytest.mark.parametrize(
    "script",
    [
        pytest.param(DATA_PARALLEL, id="DistributedDataParallel", marks=pytest.mark.slow),
        pytest.param(SHARDED, id="fully_shard", marks=pytest.mark.slow),
    ],
)
def test_two_processes_average_gradients_and_leave_frozen_weights_alone(script: str, tmp_path: Path) -> None:
    command = [sys.executable, "-c", f"{POLICY}{script}\ndistributed.destroy_process_group()"]
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    workers = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / "store")], env=settings, stderr=subprocess.PIPE, text=True
        )
        for rank in range(2)
    ]
    errors = [worker.communicate(timeout=240)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], "\n".join(errors)


def test_only_what_is_constant_is_kept_out() -> None:
    policy = nn.Sequential(DepthEncoder("regnet_y_400mf", weights="random", trainable=["head"]), nn.BatchNorm1d(440))
    policy._ddp_params_and_buffers_to_ignore = ["of.another"]
    keep_frozen_local(policy)
    ignored = set(policy._ddp_params_and_buffers_to_ignore)
    assert "of.another" in ignored
    assert ignored - {"of.another"} == {name for name, _ in policy[0].named_buffers(prefix="0")}
    assert not ignored & {name for name, _ in policy.named_parameters()}
    assert not ignored & policy.state_dict().keys()
