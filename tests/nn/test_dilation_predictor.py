import pytest
import torch
import torch.nn.functional as F

from tapadl.nn.dilation_predictor import DilationPredictor
from tapadl.tokens import PatchGrid


@pytest.mark.parametrize(
    ("size", "causal"), [((4, 7), False), ((6,), False), ((6,), True), ((1,), True)], ids=str
)
@pytest.mark.parametrize("num_prefix_tokens", [0, 2])
def test_first_convolution_equals_the_plain_one_with_its_gradients(size, causal, num_prefix_tokens):
    ours = DilationPredictor(6, 3, len(size), causal).double().proj[0]
    grid = PatchGrid(size, num_prefix_tokens)
    tokens = torch.randn(2, grid.num_tokens, 6, dtype=torch.float64)
    grad = torch.randn(2, 3, *size, dtype=torch.float64)

    def plain(tokens, grid):
        token_map = grid.to_map(grid.split(tokens)[1])
        if len(size) == 2:
            return F.conv2d(token_map, ours.weight, padding=1)
        return F.conv1d(F.pad(token_map, (2, 0)) if causal else F.pad(token_map, (1, 1)), ours.weight)

    results = []
    for convolution in (ours, plain):
        given = tokens.clone().requires_grad_()
        scores = convolution(given, grid)
        gradients = torch.autograd.grad(scores, (given, ours.weight), grad)
        results.append((scores.detach(), *gradients))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_first_convolution_in_half_precision_rounds_its_nine_values_and_their_sum_only(dtype):
    convolution = DilationPredictor(192, 4).to(dtype).proj[0]
    tokens, grid = torch.randn(2, 196, 192).to(dtype), PatchGrid((14, 14))
    token_map = grid.to_map(tokens)
    exact = F.conv2d(token_map.double(), convolution.weight.double(), padding=1)
    ours = (convolution(tokens, grid).double() - exact).norm()
    best = (F.conv2d(token_map, convolution.weight, padding=1).double() - exact).norm()
    # Two roundings where the convolution has one: sqrt(2). Adding in half precision makes it 2.4.
    assert ours < 1.5 * best


def test_weights_start_as_those_of_the_plain_convolution():
    torch.manual_seed(3)
    expected = torch.nn.Conv2d(6, 3, 3, bias=False).weight
    torch.manual_seed(3)
    assert torch.equal(DilationPredictor(6, 3).proj[0].weight, expected)


def test_without_prefix_or_padding_it_is_the_published_sequence_of_layers():
    predictor = DilationPredictor(6, 3).double()
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(6, 3, 3, padding=1, bias=False),
        torch.nn.BatchNorm2d(3),
        torch.nn.Conv2d(3, 3, 3, padding=1, bias=False),
    ).double()
    plain.load_state_dict(predictor.proj.state_dict())
    grid = PatchGrid((4, 5))
    tokens = torch.randn(2, 20, 6, dtype=torch.float64)
    torch.testing.assert_close(predictor(tokens, grid), plain(grid.to_map(tokens)))


@pytest.mark.parametrize("size", [(12,), (3, 4)], ids=str)
def test_statistics_in_training_leave_padding_out(size):
    grid = PatchGrid(size, num_prefix_tokens=1)
    predictor = DilationPredictor(6, 3, len(size)).double()
    with torch.no_grad():  # one tap, so that the first convolution sees no neighbours and no border
        middle = (slice(None), slice(None), *[1] * len(size))
        kept = predictor.proj[0].weight[middle].clone()
        predictor.proj[0].weight.zero_()[middle] = kept
    tokens = torch.randn(3, 13, 6, dtype=torch.float64)
    padding_mask = torch.zeros(3, 13, dtype=torch.bool)
    padding_mask[0, 8:] = padding_mask[2, 3:] = True
    predictor(tokens, grid, padding_mask)
    patches_that_count = ~padding_mask
    patches_that_count[:, 0] = False
    values = tokens[patches_that_count] @ kept.T
    norm = predictor.proj[1]
    torch.testing.assert_close(norm.running_mean, 0.1 * values.mean(0))
    torch.testing.assert_close(norm.running_var, 0.9 + 0.1 * values.var(0))


def test_under_autocast_the_first_scores_have_the_dtype_of_a_convolution():
    tokens, grid = torch.randn(2, 15, 8), PatchGrid((3, 5), 0)
    first = DilationPredictor(8, 4).proj[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert first(tokens, grid).dtype == torch.bfloat16
        assert torch.nn.Conv2d.forward(first, grid.to_map(tokens)).dtype == torch.bfloat16
    assert first(tokens, grid).dtype == torch.float32
