import pytest
import torch

from tapadl.ops.pooling import token_aware_pooling

IMPLS = ["auto", "reference", "separable"]


def _inputs(batch=2, num_branches=4, grid_size=(3, 5), dim=6, num_prefix_tokens=0, dtype=torch.float64):
    rows, cols = grid_size
    tokens = torch.randn(batch, num_prefix_tokens + rows * cols, dim, dtype=dtype)
    branch_weights = torch.softmax(torch.randn(batch, num_branches, rows, cols, dtype=dtype), dim=1)
    return tokens, branch_weights


@pytest.mark.parametrize("impl", IMPLS)
def test_prefix_tokens_pass_through_bit_for_bit_and_do_not_mix(impl):
    tokens, branch_weights = _inputs(num_prefix_tokens=2)
    pooled = token_aware_pooling(tokens, branch_weights, grid_size=(3, 5), num_prefix_tokens=2, impl=impl)
    without = token_aware_pooling(tokens[:, 2:], branch_weights, grid_size=(3, 5), impl=impl)
    assert torch.equal(pooled[:, :2], tokens[:, :2])
    assert torch.equal(pooled[:, 2:], without)


@pytest.mark.parametrize("impl", IMPLS)
def test_one_branch_of_weight_one_is_the_identity(impl):
    tokens, _ = _inputs()
    weights = torch.ones(2, 1, 3, 5, dtype=torch.float64)
    assert torch.equal(token_aware_pooling(tokens, weights, grid_size=(3, 5), impl=impl), tokens)


@pytest.mark.parametrize("impl", IMPLS)
def test_ones_become_the_share_of_neighbours_on_the_map(impl):
    branch_weights = torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1).expand(1, 2, 3, 4)
    pooled = token_aware_pooling(torch.ones(1, 12, 2), branch_weights, grid_size=(3, 4), impl=impl)
    expected = torch.tensor([[4.0, 6, 6, 4], [6, 9, 9, 6], [4, 6, 6, 4]]) / 9
    torch.testing.assert_close(pooled[0, :, 1].reshape(3, 4), expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("weight_dtype", [torch.bfloat16, torch.float32])
def test_output_and_gradients_keep_the_dtypes_of_their_inputs(impl, dtype, weight_dtype):
    tokens, branch_weights = _inputs(dtype=dtype)
    tokens.requires_grad_()
    branch_weights = branch_weights.to(weight_dtype).requires_grad_()
    pooled = token_aware_pooling(tokens, branch_weights, grid_size=(3, 5), impl=impl)
    pooled.sum().backward()
    assert pooled.dtype == tokens.grad.dtype == dtype
    assert branch_weights.grad.dtype == weight_dtype


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_rounded_once_at_the_end(impl, dtype):
    tokens, branch_weights = _inputs(dtype=dtype, grid_size=(9, 7), dim=32)
    exact = token_aware_pooling(tokens.double(), branch_weights.double(), grid_size=(9, 7), impl="reference")
    pooled = token_aware_pooling(tokens, branch_weights, grid_size=(9, 7), impl=impl)
    half_a_step = torch.finfo(dtype).eps / 2 * exact.abs() + torch.finfo(dtype).smallest_normal
    assert ((pooled.double() - exact).abs() <= 1.001 * half_a_step + 1e-6).all()


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_changes_nothing(impl):
    tokens, branch_weights = _inputs(dtype=torch.float32)
    expected = token_aware_pooling(tokens, branch_weights, grid_size=(3, 5), impl=impl)
    with torch.autocast("cpu", torch.bfloat16):
        pooled = token_aware_pooling(tokens, branch_weights, grid_size=(3, 5), impl=impl)
    assert torch.equal(pooled, expected)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_a_number_reaches_its_neighbours_and_nobody_else(impl, value):
    tokens, branch_weights = _inputs(batch=2, grid_size=(9, 11), num_prefix_tokens=1)
    clean = token_aware_pooling(tokens, branch_weights, grid_size=(9, 11), num_prefix_tokens=1, impl=impl)
    row, col = 4, 2
    tokens[0, 1 + row * 11 + col] = value
    pooled = token_aware_pooling(tokens, branch_weights, grid_size=(9, 11), num_prefix_tokens=1, impl=impl)
    reached = torch.zeros(9, 11, dtype=torch.bool)
    for dilation in range(4):
        rows = [r for r in (row - dilation, row, row + dilation) if 0 <= r < 9]
        cols = [c for c in (col - dilation, col, col + dilation) if 0 <= c < 11]
        reached[torch.tensor(rows)[:, None], torch.tensor(cols)] = True
    hit = torch.zeros(2, 1 + 99, dtype=torch.bool)
    hit[0, 1:] = reached.flatten()
    assert not pooled[hit].isfinite().any()
    torch.testing.assert_close(pooled[~hit], clean[~hit])


@pytest.mark.parametrize("impl", IMPLS)
def test_weights_that_are_not_numbers_propagate(impl):
    tokens, branch_weights = _inputs()
    branch_weights[1, 2, 0, 3] = float("nan")
    pooled = token_aware_pooling(tokens, branch_weights, grid_size=(3, 5), impl=impl)
    hit = torch.zeros(2, 15, dtype=torch.bool)
    hit[1, 3] = True
    assert torch.equal(pooled.isnan().all(2), hit)
    assert torch.equal(pooled.isnan().any(2), hit)


@pytest.mark.parametrize("impl", IMPLS)
def test_memory_layout_of_the_inputs_does_not_matter(impl):
    tokens, branch_weights = _inputs(num_prefix_tokens=1)
    call = {"grid_size": (3, 5), "num_prefix_tokens": 1, "impl": impl}
    expected = token_aware_pooling(tokens, branch_weights, **call)
    scattered = tokens.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    scattered_weights = branch_weights.permute(3, 1, 2, 0).contiguous().permute(3, 1, 2, 0)
    assert not scattered.is_contiguous()
    torch.testing.assert_close(token_aware_pooling(scattered, scattered_weights, **call), expected)
    every_second = torch.stack((tokens, tokens), dim=3).flatten(2)[:, :, ::2]
    torch.testing.assert_close(token_aware_pooling(every_second, branch_weights, **call), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_an_empty_batch_stays_empty(impl):
    tokens, branch_weights = _inputs(batch=0)
    assert token_aware_pooling(tokens, branch_weights, grid_size=(3, 5), impl=impl).shape == (0, 15, 6)


@pytest.mark.parametrize("impl", IMPLS)
def test_inputs_are_left_as_they_were(impl):
    tokens, branch_weights = _inputs()
    copies = tokens.clone(), branch_weights.clone()
    token_aware_pooling(tokens, branch_weights, grid_size=(3, 5), impl=impl)
    assert torch.equal(tokens, copies[0])
    assert torch.equal(branch_weights, copies[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": torch.zeros(2, 14, 6)}, r"expected 15 tokens for a grid of 3 x 5 .* got .*\(2, 14, 6\)"),
        ({"tokens": torch.zeros(15, 6)}, r"expected tokens of shape \(B, N, C\), got \(15, 6\)"),
        (
            {"tokens": torch.zeros(2, 15, 6, dtype=torch.int64)},
            r"tokens of a floating dtype, got torch.int64",
        ),
        (
            {"branch_weights": torch.zeros(2, 4, 5, 3)},
            r"\(2, K, 3, 5\) with K of at least 1, got \(2, 4, 5, 3\)",
        ),
        ({"branch_weights": torch.zeros(1, 4, 3, 5)}, r"\(2, K, 3, 5\) .* got \(1, 4, 3, 5\)"),
        ({"branch_weights": torch.zeros(2, 0, 3, 5)}, r"K of at least 1, got \(2, 0, 3, 5\)"),
        ({"branch_weights": torch.zeros(2, 4, 15)}, r"\(2, K, 3, 5\) .* got \(2, 4, 15\)"),
        (
            {"branch_weights": torch.zeros(2, 4, 3, 5, dtype=torch.int32)},
            r"branch_weights of a floating dtype",
        ),
        ({"branch_weights": torch.zeros(2, 4, 3, 5, device="meta")}, r"branch_weights on cpu .* got meta"),
        ({"grid_size": (0, 5)}, r"every side at least 1, got \(0, 5\)"),
        ({"grid_size": (5,)}, r"expected 5 tokens for a grid of 5 patches"),
        ({"grid_size": 15}, r"expected grid_size=\(rows, cols\) or \(length,\), got 15"),
        ({"grid_size": (1, 3, 5)}, r"expected grid_size=\(rows, cols\) or \(length,\), got \(1, 3, 5\)"),
        ({"grid_size": (3.0, 5.0)}, r"grid_size=\(rows, cols\) or \(length,\) of integers, got \(3.0, 5.0\)"),
        ({"grid_size": (3, None)}, r"of integers, got \(3, None\)"),
        ({"grid_size": (3, torch.tensor(5))}, r"of integers, got \(3, tensor\(5\)\)"),
        ({"num_prefix_tokens": None}, r"num_prefix_tokens to be an integer, got None"),
        ({"num_prefix_tokens": 0.0}, r"num_prefix_tokens to be an integer, got 0.0"),
        ({"num_prefix_tokens": -1}, r"num_prefix_tokens of at least 0, got -1"),
        ({"num_prefix_tokens": 1}, r"expected 16 tokens"),
        ({"causal": True}, r"expected grid_size=\(length,\) with causal=True, got \(3, 5\)"),
        (
            {"padding_mask": torch.ones(2, 15, dtype=torch.int64)},
            r"padding_mask of dtype torch.bool, True at padding, got torch.int64; .* attention_mask == 0",
        ),
        (
            {"padding_mask": torch.zeros(2, 14, dtype=torch.bool)},
            r"padding_mask of shape \(2, 15\) like the tokens, prefix included, got \(2, 14\)",
        ),
        (
            {"padding_mask": torch.zeros(2, 15, dtype=torch.bool, device="meta")},
            r"padding_mask on cpu like the tokens, got meta",
        ),
        ({"impl": "triangular"}, r"impl to be one of auto, reference, separable, got 'triangular'"),
    ],
)
def test_bad_arguments_are_named_with_what_was_expected(changes, message):
    arguments = {
        "tokens": torch.zeros(2, 15, 6),
        "branch_weights": torch.zeros(2, 4, 3, 5),
        "grid_size": (3, 5),
    }
    with pytest.raises(ValueError, match=message):
        token_aware_pooling(**(arguments | changes))
