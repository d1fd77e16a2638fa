"""Our own tasks, as experiments see them."""

import warnings

import torch

from defm_rl.depth import DepthScaleMonitor
from defm_rl.experiments.config import compose_config
from defm_rl.experiments.runs import to_config
from defm_rl.experiments.tasks import make_task


def test_nobody_is_warned_of_a_camera_that_sees_less_than_a_metre():
    config = to_config(compose_config(["experiment=locomotion_teacher", "env.num_envs=1"]))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        make_task(config.env).make(("state",)).close()
        DepthScaleMonitor(frames=4).watch(torch.full((4, 16, 16), 0.4))
    assert [str(warning.message) for warning in caught if "metres" in str(warning.message)] == []
