"""Frozen encoders under DistributedDataParallel, which would send their weights around at every forward pass."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from defm_rl.encoders.depth_encoder import DepthEncoder


def keep_frozen_local(module: nn.Module) -> None:
    """Has DistributedDataParallel leave the frozen weights of every `DepthEncoder` inside a module where they are.

    Frozen weights are buffers, and DistributedDataParallel writes those of the first process over all others' at every
    forward pass: as many bytes as the network has, after which what was made of the weights (graphs, copies in another
    layout or precision) is made anew. They are the same everywhere without it: each process loads them from the same
    file, by its sha256. Running statistics of what is trained are still sent.

    ```python
    keep_frozen_local(policy)
    policy = DistributedDataParallel(policy)  # or accelerate's prepare(policy), Lightning's Trainer, ...
    ```

    Args:
        module: What will be wrapped, with its encoders frozen or unfrozen as they will be trained.
    """
    local = set(getattr(module, "_ddp_params_and_buffers_to_ignore", ()))
    for prefix, encoder in module.named_modules():
        if isinstance(encoder, DepthEncoder):
            for path, part in encoder.named_modules(prefix=prefix):
                # What is in no checkpoint is constant.
                local.update(f"{path}.{name}" if path else name for name in part._non_persistent_buffers_set)
    DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(module, sorted(local))
