"""RSL-RL under torchrun: what is frozen stays in each process, and gradients of what is trained are averaged."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from torch import distributed

pytestmark = pytest.mark.skipif(not distributed.is_available(), reason="PyTorch is built without it")

# RSL-RL's runner takes NVIDIA's GPUs and NCCL alone; but for that, what it does is its own.
TRAINING = """
import os, torch
from torch import distributed
from rsl_rl.runners import OnPolicyRunner
from runs import ENCODER, environment, ppo

def configure(runner):
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    runner.is_distributed, runner.gpu_world_size = True, size
    runner.gpu_global_rank = runner.gpu_local_rank = rank
    runner.cfg["multi_gpu"] = {"global_rank": rank, "local_rank": rank, "world_size": size}
    distributed.init_process_group("gloo", rank=rank, world_size=size)

OnPolicyRunner._configure_multi_gpu = configure
torch.set_num_threads(1)
settings = {**ENCODER, "trainable": TRAINABLE, "image_size": (32, 32)}
algorithm = {"class_name": "defm_rl.rsl_rl:EncoderPPO", "share_cnn_encoders": True}
runner = ppo(environment(encoded=False), algorithm=algorithm, encoder=settings)
rank = runner.gpu_global_rank
encoder = runner.alg.actor.encoder
frozen = {name: x.clone() for name, x in encoder.named_buffers()}
versions = {name: x._version for name, x in encoder.named_buffers()}
with torch.no_grad():
    for parameter in runner.alg.actor.parameters():
        parameter += rank  # the processes begin apart
reduce, reduced = runner.alg.reduce_parameters, []

def watched():
    trained = [p for p in encoder.parameters() if p.grad is not None]
    own = [p.grad.clone() for p in trained]
    reduce()
    for parameter, gradient in zip(trained, own):
        distributed.all_reduce(gradient)
        torch.testing.assert_close(parameter.grad, gradient / 2, rtol=1e-4, atol=1e-6)
    reduced.append(len(trained))

runner.alg.reduce_parameters = watched
torch.manual_seed(rank)  # other actions, so that the gradients differ
runner.learn(2)
assert len(reduced) == 8 and bool(reduced[0]) == bool(TRAINABLE != "none"), reduced
trained = [p.detach() for p in runner.alg.actor.parameters()]
for parameter in trained:
    other = parameter.clone()
    distributed.broadcast(other, src=0)
    torch.testing.assert_close(parameter, other)
assert encoder.frozen == (TRAINABLE == "none")
if TRAINABLE == "none":
    assert {name: x._version for name, x in encoder.named_buffers()} == versions, "frozen weights were written"
    assert all(torch.equal(x, frozen[name]) for name, x in encoder.named_buffers())
distributed.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.parametrize("trainable", ["none", "all"])
def test_two_processes_train_one_policy(trainable: str, tmp_path: Path) -> None:
    script = tmp_path / "training.py"
    script.write_text(TRAINING.replace("TRAINABLE", repr(trainable)))
    here = Path(__file__).parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(torchrun, env=settings, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
