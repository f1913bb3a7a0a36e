import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tapadl.models.batch_norm import BatchNorm2d


def statistics_after_checkpointing(batch_norm):
    images = torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1), requires_grad=True)
    checkpoint(nn.Sequential(batch_norm), images, use_reentrant=False).sum().backward()
    return batch_norm.running_mean, batch_norm.num_batches_tracked


def test_a_batch_that_is_computed_twice_counts_once():
    expected = nn.BatchNorm2d(3)
    expected(torch.randn(4, 3, 5, 5, generator=torch.Generator().manual_seed(1)))
    mean, counted = statistics_after_checkpointing(BatchNorm2d(3))
    assert torch.equal(mean, expected.running_mean)
    assert counted == 1
    plain_mean, plain_counted = statistics_after_checkpointing(nn.BatchNorm2d(3))
    assert not torch.equal(plain_mean, expected.running_mean)
    assert plain_counted == 2
