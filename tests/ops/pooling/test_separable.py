import pytest
import torch
from torch.autograd import forward_ad

from tapadl.ops.pooling import token_aware_pooling

SIZES = [
    # batch, rows, cols, dim, branches, prefix tokens
    pytest.param(1, 1, 1, 1, 4, 0, id="one-token"),
    pytest.param(2, 1, 7, 3, 4, 1, id="one-row"),
    pytest.param(3, 6, 1, 5, 3, 0, id="one-column"),
    pytest.param(2, 2, 3, 17, 6, 2, id="dilations-beyond-the-map"),
    pytest.param(2, 4, 5, 8, 1, 1, id="one-branch"),
    pytest.param(2, 9, 11, 33, 5, 3, id="odd-sizes"),
    pytest.param(1, 14, 14, 192, 4, 1, id="deit-tiny"),
]


def _run(impl, tokens, branch_weights, grad, grid_size, num_prefix_tokens):
    tokens, branch_weights = tokens.clone().requires_grad_(), branch_weights.clone().requires_grad_()
    pooled = token_aware_pooling(
        tokens, branch_weights, grid_size=grid_size, num_prefix_tokens=num_prefix_tokens, impl=impl
    )
    pooled.backward(grad)
    return pooled.detach(), tokens.grad, branch_weights.grad


def _inputs(batch, rows, cols, dim, num_branches, num_prefix_tokens):
    tokens = torch.randn(batch, num_prefix_tokens + rows * cols, dim, dtype=torch.float64)
    branch_weights = torch.randn(batch, num_branches, rows, cols, dtype=torch.float64)
    return tokens, branch_weights, torch.randn_like(tokens), (rows, cols), num_prefix_tokens


@pytest.mark.parametrize(("batch", "rows", "cols", "dim", "num_branches", "num_prefix_tokens"), SIZES)
@pytest.mark.parametrize(
    ("dtype", "tolerance"),
    [(torch.float64, 1e-13), (torch.float32, 1e-5), (torch.bfloat16, 2e-2), (torch.float16, 2e-3)],
    ids=str,
)
def test_output_and_gradients_equal_the_reference(
    dtype, tolerance, batch, rows, cols, dim, num_branches, num_prefix_tokens
):
    tokens, branch_weights, grad, *rest = _inputs(batch, rows, cols, dim, num_branches, num_prefix_tokens)
    tokens, branch_weights, grad = tokens.to(dtype), branch_weights.to(dtype), grad.to(dtype)
    expected = _run("reference", tokens.double(), branch_weights.double(), grad.double(), *rest)
    actual = _run("separable", tokens, branch_weights, grad, *rest)
    for name, a, b in zip(("output", "tokens", "branch_weights"), actual, expected, strict=True):
        error = (a.double() - b).abs().max() / b.abs().max()
        assert error < tolerance, f"{name}: {error}"


def test_gradients_agree_with_differences():
    tokens = torch.randn(1, 1 + 6, 2, dtype=torch.float64, requires_grad=True)
    branch_weights = torch.rand(1, 3, 2, 3, dtype=torch.float64, requires_grad=True)
    call = {"grid_size": (2, 3), "num_prefix_tokens": 1, "impl": "separable"}
    assert torch.autograd.gradcheck(
        lambda *inputs: token_aware_pooling(*inputs, **call), (tokens, branch_weights)
    )


@pytest.mark.parametrize("wanted", ["tokens", "branch_weights"])
def test_gradient_of_one_input_alone_is_the_same(wanted):
    tokens, branch_weights, grad, grid_size, _ = _inputs(2, 4, 5, 3, 4, 0)
    _, grad_tokens, grad_weights = _run("separable", tokens, branch_weights, grad, grid_size, 0)
    (tokens if wanted == "tokens" else branch_weights).requires_grad_()
    token_aware_pooling(tokens, branch_weights, grid_size=grid_size, impl="separable").backward(grad)
    if wanted == "tokens":
        assert torch.equal(tokens.grad, grad_tokens)
        assert branch_weights.grad is None
    else:
        assert torch.equal(branch_weights.grad, grad_weights)
        assert tokens.grad is None


def test_expanded_gradient_of_a_sum_is_taken():
    tokens, branch_weights, grad, grid_size, _ = _inputs(2, 4, 5, 3, 4, 0)
    expected = _run("reference", tokens, branch_weights, torch.ones_like(grad), grid_size, 0)
    actual = _run("separable", tokens, branch_weights, torch.ones(()).double().expand_as(grad), grid_size, 0)
    torch.testing.assert_close(actual, expected)


def test_only_tokens_weights_and_the_table_of_one_image_are_kept_for_the_backward():
    tokens, branch_weights, _, grid_size, _ = _inputs(8, 6, 7, 64, 4, 0)
    kept = []

    def pack(tensor):
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_aware_pooling(tokens.requires_grad_(), branch_weights, grid_size=grid_size, impl="separable")
    of_the_batch = [tensor for tensor in kept if tensor.shape[0] == 8]
    assert {tensor.data_ptr() for tensor in of_the_batch} == {tokens.data_ptr(), branch_weights.data_ptr()}
    assert all(tensor.numel() <= 42 * 25 for tensor in kept if tensor.shape[0] != 8)


@pytest.mark.parametrize("power", [1, 2])
def test_second_gradients_equal_those_of_the_reference(power):
    tokens, branch_weights, _, grid_size, _ = _inputs(2, 2, 3, 2, 3, 1)
    tokens.requires_grad_()
    branch_weights.requires_grad_()

    def penalty(impl):
        pooled = token_aware_pooling(
            tokens, branch_weights, grid_size=grid_size, num_prefix_tokens=1, impl=impl
        )
        # The gradient of a plain sum does not depend on any gradient that came in, only on the weights.
        gradients = torch.autograd.grad(pooled.pow(power).sum(), (tokens, branch_weights), create_graph=True)
        loss = sum(gradient.square().sum() for gradient in gradients)
        return torch.autograd.grad(loss, (tokens, branch_weights))

    torch.testing.assert_close(penalty("separable"), penalty("reference"))


@pytest.mark.parametrize("impl", ["auto", "reference", "separable"])
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch 2.11
def test_compiles_into_one_graph(impl):
    tokens, branch_weights, grad, grid_size, num_prefix_tokens = _inputs(2, 4, 5, 3, 4, 1)
    expected = _run("reference", tokens, branch_weights, grad, grid_size, num_prefix_tokens)

    @torch.compile(fullgraph=True, backend="aot_eager")
    def pool(tokens, branch_weights):
        return token_aware_pooling(
            tokens, branch_weights, grid_size=grid_size, num_prefix_tokens=num_prefix_tokens, impl=impl
        )

    tokens.requires_grad_()
    branch_weights.requires_grad_()
    pooled = pool(tokens, branch_weights)
    pooled.backward(grad)
    torch.testing.assert_close((pooled.detach(), tokens.grad, branch_weights.grad), expected)


def test_works_under_function_transforms():
    tokens, branch_weights, _, grid_size, _ = _inputs(1, 2, 3, 2, 3, 0)

    def loss(tokens):
        return token_aware_pooling(tokens, branch_weights, grid_size=grid_size).square().sum()

    gradient = torch.func.grad(loss)(tokens)
    tokens.requires_grad_()
    torch.testing.assert_close(gradient, torch.autograd.grad(loss(tokens), tokens)[0])


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch.func.jvp calls it
def test_auto_is_mapped_and_differentiated_forward():
    tokens, branch_weights, tangent, grid_size, _ = _inputs(3, 2, 3, 2, 3, 0)

    def pool(tokens, branch_weights):
        return token_aware_pooling(tokens, branch_weights, grid_size=grid_size)

    expected = pool(tokens, branch_weights)
    mapped = torch.vmap(pool)(tokens[:, None], branch_weights[:, None])
    torch.testing.assert_close(mapped[:, 0], expected)
    _, slope = torch.func.jvp(lambda tokens: pool(tokens, branch_weights), (tokens,), (tangent,))
    torch.testing.assert_close(slope, pool(tangent, branch_weights))
    with forward_ad.dual_level():
        pooled = pool(forward_ad.make_dual(tokens, tangent), branch_weights)
        torch.testing.assert_close(forward_ad.unpack_dual(pooled).tangent, slope)


@pytest.mark.parametrize("batched_by", ["is_grads_batched", "vmap"])
def test_a_batch_of_gradients_gives_the_gradient_of_each(batched_by):
    tokens, branch_weights, _, grid_size, _ = _inputs(2, 2, 3, 2, 3, 1)
    inputs = tokens.requires_grad_(), branch_weights.requires_grad_()
    pooled = token_aware_pooling(*inputs, grid_size=grid_size, num_prefix_tokens=1)
    grads = torch.randn(4, *pooled.shape, dtype=pooled.dtype)

    def gradients(grad, **options):
        return torch.autograd.grad(pooled, inputs, grad, retain_graph=True, **options)

    each = [torch.stack(values) for values in zip(*map(gradients, grads), strict=True)]
    if batched_by == "vmap":
        batched = torch.vmap(gradients)(grads)
    else:
        batched = gradients(grads, is_grads_batched=True)
    torch.testing.assert_close(list(batched), each)


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_auto_traces_the_plain_operations():
    tokens, branch_weights, _, grid_size, _ = _inputs(2, 2, 3, 2, 3, 0)
    traced = torch.jit.trace(
        lambda *inputs: token_aware_pooling(*inputs, grid_size=grid_size), (tokens, branch_weights)
    )
    assert "embedding_bag" not in str(traced.graph)
    expected = token_aware_pooling(tokens[:1], branch_weights[:1], grid_size=grid_size)
    torch.testing.assert_close(traced(tokens[:1], branch_weights[:1]), expected)


@pytest.mark.gpu
@pytest.mark.parametrize("num_prefix_tokens", [0, 1])
def test_cuda_equals_cpu(num_prefix_tokens):
    tokens, branch_weights, grad, *rest = _inputs(2, 9, 11, 32, 4, num_prefix_tokens)
    expected = _run("reference", tokens, branch_weights, grad, *rest)
    actual = _run("separable", tokens.cuda(), branch_weights.cuda(), grad.cuda(), *rest)
    torch.testing.assert_close([value.cpu() for value in actual], list(expected))
