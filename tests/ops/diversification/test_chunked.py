import pytest
import torch

from tapadl.ops.diversification import attention_diversification, tiles
from tapadl.ops.diversification.visibility import visibility

TAU = 1.3
FAST = ("single_pass", "chunked")

SIZES = {
    "odd and unequal": (2, 3, 37, 23, 5),
    "more keys than queries": (3, 2, 9, 70, 8),
    "one head, one sample": (1, 1, 40, 40, 4),
    "one token": (2, 2, 1, 1, 3),
    "one key": (2, 3, 6, 1, 4),
    "one query": (1, 5, 1, 33, 7),
}

# Tiles of one head and the fewest rows; of some heads; of some samples; of everything.
TILE_BYTES = {"rows": 8, "heads": 2 * 37 * 23 * 8, "samples": 6 * 37 * 23 * 8, "all": 1 << 20}

BIASES = {
    "none": lambda B, H, N, M: None,
    "full": lambda B, H, N, M: torch.randn(B, H, N, M),
    "per head": lambda B, H, N, M: torch.randn(H, N, M),
    "per key": lambda B, H, N, M: torch.randn(B, 1, 1, M),
    "per query": lambda B, H, N, M: torch.randn(N, 1),
    "scalar": lambda B, H, N, M: torch.randn(()),
    "mask": lambda B, H, N, M: torch.rand(B, 1, N, M) > 0.4,
    "key padding": lambda B, H, N, M: torch.rand(B, 1, 1, M) > 0.3,
    "masked rows": lambda B, H, N, M: torch.rand(N, 1) > 0.4,
    "minus infinity": lambda B, H, N, M: torch.randn(H, N, M).masked_fill(torch.rand(N, M) > 0.5, -torch.inf),
}


def inputs(B, H, N, M, D, dtype=torch.float64):
    return torch.randn(B, H, N, D, dtype=dtype) * 2, torch.randn(B, H, M, D, dtype=dtype)


def margin(query, key, attn_bias=None, tau=TAU, **options):
    """How far the averaged map and the mean row stay from the threshold, relative to it."""
    scores = query.double() @ key.double().mT / query.shape[-1] ** 0.5
    scores = scores if attn_bias is None else scores + attn_bias
    rows = scores.softmax(-1).mean(1)
    threshold = tau / key.shape[2]
    return min((m / threshold - 1).abs().min().item() for m in (rows, rows.mean(1)))


def loss_and_gradients(impl, query, key, attn_bias=None, **options):
    leaves = [query.detach().clone().requires_grad_(), key.detach().clone().requires_grad_()]
    if attn_bias is not None and attn_bias.is_floating_point():
        attn_bias = attn_bias.detach().clone().requires_grad_()
        leaves.append(attn_bias)
    loss = attention_diversification(*leaves[:2], attn_bias=attn_bias, impl=impl, **{"tau": TAU, **options})
    return [loss.detach(), *torch.autograd.grad(loss, leaves)]


def assert_same(candidate, reference, tolerance=1e-11):
    for left, right in zip(candidate, reference, strict=True):
        torch.testing.assert_close(left, right, rtol=tolerance, atol=tolerance)


def compare(query, key, attn_bias=None, **options):
    reference = loss_and_gradients("reference", query, key, attn_bias, **options)
    assert all(value.isfinite().all() for value in reference)
    for impl in FAST:
        assert_same(loss_and_gradients(impl, query, key, attn_bias, **options), reference)


@pytest.mark.parametrize("tile", TILE_BYTES)
@pytest.mark.parametrize("sizes", SIZES)
def test_loss_and_gradient_equal_the_reference_however_they_are_tiled(monkeypatch, sizes, tile):
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", TILE_BYTES[tile])
    compare(*inputs(*SIZES[sizes]))


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("tile", TILE_BYTES)
@pytest.mark.parametrize("bias", BIASES)
def test_bias_and_masks_equal_the_reference_and_the_bias_gets_its_gradient(
    monkeypatch, bias, tile, is_causal
):
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", TILE_BYTES[tile])
    sizes = SIZES["odd and unequal"]
    attn_bias = BIASES[bias](*sizes[:4])
    if attn_bias is not None and attn_bias.is_floating_point():
        attn_bias = attn_bias.double()
    compare(*inputs(*sizes), attn_bias, is_causal=is_causal)


def test_tile_sizes_cover_every_way_to_tile(monkeypatch):
    query, key = inputs(*SIZES["odd and unequal"])
    layer = tiles.Layer(query, key, None, 1.0, False)
    seen = {}
    for name, size in TILE_BYTES.items():
        monkeypatch.setattr(tiles, "CPU_TILE_BYTES", size)
        seen[name] = layer.tile_sizes()
    assert seen == {"rows": (1, 1, 32), "heads": (1, 2, 37), "samples": (2, 3, 37), "all": (2, 3, 37)}


@pytest.mark.parametrize(("N", "M"), [(50, 50), (70, 40), (40, 70)])
def test_causal_attention_equals_the_reference(monkeypatch, N, M):
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", 8)
    compare(*inputs(2, 3, N, M, 6), is_causal=True)


@pytest.mark.parametrize("tau", [0.0, 0.7, 2.0, 30.0])
def test_every_tau_equals_the_reference(tau):
    compare(*inputs(2, 4, 31, 19, 6), tau=tau)


@pytest.mark.parametrize("scale", [0.0, -0.4, 1.7])
def test_every_scale_equals_the_reference(scale):
    compare(*inputs(2, 4, 31, 19, 6), scale=scale)


@pytest.mark.parametrize("size", [1e-3, 1e3])
def test_small_and_large_scores_equal_the_reference(size):
    query, key = inputs(1, 2, 20, 20, 4)
    compare(query * size, key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("impl", FAST)
def test_huge_scores_neither_overflow_nor_vanish(impl, dtype):
    query, key = inputs(1, 2, 20, 20, 4, dtype)
    chunked, reference = (loss_and_gradients(name, query * 1e6, key) for name in (impl, "reference"))
    torch.testing.assert_close(chunked[0], reference[0])
    assert all(value.isfinite().all() for value in chunked)


@pytest.mark.parametrize("tile", TILE_BYTES)
@pytest.mark.parametrize("size", [-1e9, torch.finfo(torch.float32).min])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-11)])
def test_rows_masked_by_large_finite_numbers_equal_the_reference(monkeypatch, dtype, tolerance, size, tile):
    monkeypatch.setattr(tiles, "CPU_TILE_BYTES", TILE_BYTES[tile])
    query, key = inputs(*SIZES["odd and unequal"], dtype)
    bias = torch.zeros(2, 1, 37, 23, dtype=dtype)
    bias[:, :, :5] = size  # whole rows, in which every score is lost beside the number
    bias[:, :, 5:9, ::2] = size  # rows of which some keys stay
    bias[0, :, 9:12] = bias[1, :, 10] = 1e9
    reference = loss_and_gradients("reference", query, key, bias)
    for impl in FAST:
        assert_same(loss_and_gradients(impl, query, key, bias), reference, tolerance)


def test_zero_vectors_equal_the_reference():
    query, key = inputs(2, 2, 12, 9, 4)
    query[:, :, 3], key[:, :, 5] = 0, 0
    compare(query, key)
    compare(torch.zeros_like(query), key)
    compare(query, torch.zeros_like(key))


@pytest.mark.parametrize("impl", ["reference", *FAST])
def test_rows_that_may_attend_to_nothing_do_not_count(impl):
    query, key = torch.zeros(1, 2, 4, 3), torch.zeros(1, 2, 8, 3)
    first_key_only = torch.zeros(4, 8, dtype=torch.bool)
    first_key_only[:3, 0] = True
    loss, *gradients = loss_and_gradients(impl, query, key, first_key_only, tau=0.9)
    assert loss.item() == pytest.approx(1.0)
    loss, *more = loss_and_gradients(impl, query, key, first_key_only, tau=1.0)
    assert loss == 0  # attention to the only key there is is uniform
    gradients += more
    nothing = torch.zeros(1, 1, 1, 1, dtype=torch.bool)
    loss, *more = loss_and_gradients(impl, query, key, nothing)
    assert loss == 0
    assert all(torch.equal(gradient, torch.zeros_like(gradient)) for gradient in gradients + more)


@pytest.mark.parametrize("impl", FAST)
@pytest.mark.parametrize("is_causal", [False, True])
def test_gradient_passes_gradcheck_away_from_the_threshold(impl, is_causal):
    query, key = inputs(2, 2, 5, 4, 3)
    bias = torch.randn(2, 5, 4, dtype=torch.float64)
    assert margin(query, key, bias) > 1e-3
    leaves = [tensor.requires_grad_() for tensor in (query, key, bias)]
    assert torch.autograd.gradcheck(
        lambda q, k, b: attention_diversification(q, k, attn_bias=b, tau=TAU, is_causal=is_causal, impl=impl),
        leaves,
    )


def test_float32_is_as_close_to_float64_as_the_reference_in_float32():
    query, key = inputs(2, 4, 90, 70, 16, torch.float32)
    assert margin(query, key) > 1e-5
    exact = loss_and_gradients("reference", query.double(), key.double())
    errors = {
        impl: [
            ((value - true).norm() / true.norm()).item()
            for value, true in zip(loss_and_gradients(impl, query, key), exact, strict=True)
        ]
        for impl in ("reference", *FAST)
    }
    assert all(max(of_impl) < 1e-5 for of_impl in errors.values()), errors


@pytest.mark.parametrize("impl", ["reference", *FAST])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(impl, dtype):
    query, key = (tensor.to(dtype) for tensor in inputs(2, 3, 40, 40, 8))
    bias = torch.randn(3, 40, 40).to(dtype)
    loss, *gradients = loss_and_gradients(impl, query, key, bias)
    wide_loss, *wide_gradients = loss_and_gradients(impl, query.float(), key.float(), bias.float())
    assert loss.dtype == torch.float32
    assert torch.equal(loss, wide_loss)
    for gradient, wide in zip(gradients, wide_gradients, strict=True):
        assert gradient.dtype == dtype
        torch.testing.assert_close(gradient, wide.to(dtype))


@pytest.mark.parametrize("impl", ["reference", *FAST])
def test_autocast_changes_nothing(impl):
    query, key = inputs(2, 3, 40, 40, 8, torch.float32)
    plain = loss_and_gradients(impl, query, key)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = attention_diversification(query, key, tau=TAU, impl=impl)
    assert torch.equal(loss, plain[0])
    if impl != "reference":
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert_same(loss_and_gradients(impl, query, key), plain, tolerance=0)


def test_queries_and_keys_that_are_views_of_one_projection_equal_the_reference():
    qkv = torch.randn(2, 30, 3, 4, 8, dtype=torch.float64).permute(2, 0, 3, 1, 4)
    assert not qkv[0].is_contiguous()
    compare(qkv[0], qkv[1])
    compare(qkv[0].mT, qkv[1].mT)


@pytest.mark.parametrize("impl", FAST)
def test_only_what_needs_a_gradient_gets_one(impl):
    query, key = inputs(1, 2, 5, 4, 3)
    bias = torch.randn(5, 4, dtype=torch.float64)
    whole = loss_and_gradients("chunked", query, key, bias)[1:]
    for number, leaf in enumerate((query, key, bias)):
        leaf.requires_grad_()
        loss = attention_diversification(query, key, attn_bias=bias, tau=TAU, impl=impl)
        loss.backward()
        assert_same([leaf.grad], [whole[number]])
        leaf.requires_grad_(False)
        assert [tensor.grad is not None for tensor in (query, key, bias)] == [number == i for i in range(3)]
        leaf.grad = None


def test_nothing_that_grows_with_queries_times_keys_is_kept_for_the_backward():
    B, H, N, M, D = 2, 3, 300, 200, 8
    query, key = (tensor.requires_grad_() for tensor in inputs(B, H, N, M, D))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        attention_diversification(query, key, impl="chunked")
    assert sum(kept) == query.numel() + key.numel() + 2 * B * H * N + 2 * B * M


@pytest.mark.parametrize("impl", FAST)
def test_second_derivative_is_refused_with_the_way_out(impl):
    query, key = (tensor.requires_grad_() for tensor in inputs(1, 2, 5, 5, 3))
    loss = attention_diversification(query, key, impl=impl)
    (gradient,) = torch.autograd.grad(loss, query, create_graph=True)
    with pytest.raises(RuntimeError, match='use impl="reference"'):
        gradient.sum().backward()


@pytest.mark.parametrize("impl", FAST)
def test_whole_graph_compilation_gives_the_same_loss_and_gradient(impl):
    query, key = inputs(2, 3, 20, 14, 4)
    bias = torch.randn(20, 14, dtype=torch.float64)

    def loss(query, key, bias):
        return attention_diversification(query * 1.5, key, attn_bias=bias, tau=TAU, impl=impl) * 2

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    leaves = [tensor.requires_grad_() for tensor in (query, key, bias)]
    values = [[value, *torch.autograd.grad(value, leaves)] for value in (loss(*leaves), compiled(*leaves))]
    assert_same(*values)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # opcheck reads it
@pytest.mark.parametrize("masked", [False, True])
def test_registered_operators_pass_the_checks_of_torch(masked):
    query, key = (tensor.requires_grad_() for tensor in inputs(2, 2, 6, 5, 3))
    bias = torch.randn(1, 2, 6, 5, dtype=torch.float64, requires_grad=True)
    seen = visibility((2, 6, 5), torch.rand(2, 1, 6, 5) > 0.3, masked, None, query.detach())
    visible = (seen.keys_seen.clone(), seen.uniform_mean.clone()) if masked else (None, None)
    for attn_bias in (None, bias):
        arguments = (query, key, attn_bias, *visible, 1.0, 0.5, masked)
        torch.library.opcheck(torch.ops.tapadl.diversification.default, arguments)
        single_pass = torch.ops.tapadl.diversification_single_pass.default
        torch.library.opcheck(single_pass, (*arguments, True, attn_bias is not None))
