"""The encoder's learning rate under SB3's schedule and checkpoints."""

import pytest
import torch
from stable_baselines3.common.utils import update_learning_rate
from torch import nn

from defm_rl.optimizers import EncoderAdam, EncoderLearningRate


def parameters():
    head, encoder = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(2))
    encoder.is_defm_encoder = True
    for parameter in (head, encoder):
        parameter.grad = torch.ones(2)
    return head, encoder


def test_encoder_moves_by_a_fraction_after_the_schedule_set_all_rates():
    head, encoder = parameters()
    optimizer = EncoderAdam([head, encoder], lr=1.0, encoder_lr_scale=0.1)
    update_learning_rate(optimizer, 0.01)
    for _ in range(2):
        optimizer.step()
    torch.testing.assert_close(head, torch.full((2,), -0.02))
    torch.testing.assert_close(encoder, torch.full((2,), -0.002))
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]


def test_rates_are_restored_when_a_step_fails():
    head, encoder = parameters()
    optimizer = EncoderAdam([head, encoder], lr=0.01)

    def fail():
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        optimizer.step(fail)
    assert [group["lr"] for group in optimizer.param_groups] == [0.01, 0.01]


def test_moments_are_saved_and_loaded_and_the_scale_is_that_of_the_optimizer():
    optimizer = EncoderAdam(parameters(), lr=0.01, encoder_lr_scale=0.5)
    optimizer.step()
    head, encoder = parameters()
    loaded = EncoderAdam([head, encoder], lr=0.01, encoder_lr_scale=0.1)
    loaded.load_state_dict(optimizer.state_dict())
    loaded.step()
    torch.testing.assert_close(encoder, torch.full((2,), -0.001))
    assert loaded.state[encoder]["step"] == 2


def test_works_without_an_encoder():
    head, _ = parameters()
    optimizer = EncoderAdam([head], lr=0.01)
    optimizer.step()
    torch.testing.assert_close(head, torch.full((2,), -0.01))


def test_mixes_into_other_optimizers():
    class EncoderSGD(EncoderLearningRate, torch.optim.SGD):
        pass

    head, encoder = parameters()
    EncoderSGD([head, encoder], lr=0.1, encoder_lr_scale=0.5).step()
    torch.testing.assert_close(head, torch.full((2,), -0.1))
    torch.testing.assert_close(encoder, torch.full((2,), -0.05))
