import torch
from torch import nn

from tapadl.models.pointwise_conv import PointwiseConv


def test_it_is_a_convolution_with_kernel_1():
    pointwise = PointwiseConv(3, 5).double()
    plain = nn.Conv2d(3, 5, kernel_size=1).double()
    plain.load_state_dict(pointwise.state_dict())
    images = torch.randn(2, 3, 4, 6, dtype=torch.float64, requires_grad=True)
    torch.testing.assert_close(pointwise(images), plain(images))
    for module in (pointwise, plain):
        module(images).square().sum().backward()
    torch.testing.assert_close(pointwise.weight.grad, plain.weight.grad)
    torch.testing.assert_close(pointwise.bias.grad, plain.bias.grad)


def test_its_result_lies_in_memory_channels_last():
    result = PointwiseConv(3, 5)(torch.randn(2, 3, 4, 6))
    assert result.is_contiguous(memory_format=torch.channels_last)
