import math

import pytest
import torch
from torch.autograd import forward_ad

from tapadl.ops.diversification import attention_diversification, attention_diversification_from_map

QUERY, KEY = torch.zeros(2, 3, 5, 4), torch.zeros(2, 3, 7, 4)
IMPLS = ["auto", "reference", "single_pass", "chunked"]


@pytest.mark.parametrize(
    ("query", "key", "options", "message"),
    [
        (QUERY[0], KEY, {}, r"query of shape \(B, H, N, D\) without an empty axis, got \(3, 5, 4\)"),
        (QUERY, KEY[None], {}, r"key of shape \(B, H, M, D\) .* got \(1, 2, 3, 7, 4\)"),
        (QUERY[:0], KEY[:0], {}, r"without an empty axis, got \(0, 3, 5, 4\)"),
        (QUERY[:1], KEY, {}, r"same batch size, got query \(1, 3, 5, 4\) and key \(2, 3, 7, 4\)"),
        (QUERY, KEY[:, :1], {}, r"same number of heads, got query \(2, 3, 5, 4\) and key \(2, 1, 7, 4\)"),
        (QUERY, KEY[..., :2], {}, r"same head width, got query \(2, 3, 5, 4\) and key \(2, 3, 7, 2\)"),
        (QUERY.long(), KEY, {}, r"query of a floating-point dtype, got torch.int64"),
        (QUERY, KEY.int(), {}, r"key of a floating-point dtype, got torch.int32"),
        (QUERY, KEY.to("meta"), {}, r"query and key on one device, got cpu and meta"),
        (QUERY, KEY, {"tau": -0.1}, r"tau of at least 0, got -0.1"),
        (QUERY, KEY, {"tau": math.nan}, r"tau of at least 0, got nan"),
        (QUERY, KEY, {"tau": None}, r"tau to be a number, got None"),
        (QUERY, KEY, {"tau": "2"}, r"tau to be a number, got '2'"),
        (QUERY, KEY, {"tau": torch.ones(())}, r"tau to be a number, got tensor\(1.\)"),
        (QUERY, KEY, {"scale": "0.5"}, r"scale to be a number or None, got '0.5'"),
        (QUERY, KEY, {"scale": (1.0,)}, r"scale to be a number or None, got \(1.0,\)"),
        (QUERY, KEY, {"attn_bias": 1.0}, r"attn_bias to be a tensor or None, got 1.0"),
        (QUERY, KEY, {"scale": math.inf}, r"a finite scale, got inf"),
        (QUERY, KEY, {"impl": "fast"}, r"one of auto, reference, single_pass, chunked, got 'fast'"),
        (QUERY, KEY, {"attn_bias": torch.zeros(5, 5)}, r"= \(2, 3, 5, 7\), got shape \(5, 5\)"),
        (QUERY, KEY, {"attn_bias": torch.zeros(3, 3, 5, 7)}, r"= \(2, 3, 5, 7\), got shape \(3, 3, 5, 7\)"),
        (QUERY, KEY, {"attn_bias": torch.zeros(1, 2, 3, 5, 7)}, r"got shape \(1, 2, 3, 5, 7\)"),
        (
            QUERY,
            KEY,
            {"attn_bias": torch.zeros(5, 7).int()},
            r"or bool \(True = may attend\), got torch.int32",
        ),
        (QUERY, KEY, {"attn_bias": torch.zeros(5, 7, device="meta")}, r"device of query, cpu, got meta"),
    ],
)
def test_wrong_arguments_are_refused_in_words(query, key, options, message):
    with pytest.raises(ValueError, match=message):
        attention_diversification(query, key, **options)


@pytest.mark.parametrize(
    ("attention", "tau", "message"),
    [
        (torch.zeros(3, 5, 7), 2.0, r"attention of shape \(B, H, N, M\) .* got \(3, 5, 7\)"),
        (torch.zeros(2, 0, 5, 7), 2.0, r"without an empty axis, got \(2, 0, 5, 7\)"),
        (torch.zeros(2, 3, 5, 7).bool(), 2.0, r"a floating-point dtype, got torch.bool"),
        (torch.zeros(2, 3, 5, 7), None, r"tau to be a number, got None"),
        (torch.zeros(2, 3, 5, 7), -1, r"tau of at least 0, got -1"),
    ],
)
def test_wrong_maps_are_refused_in_words(attention, tau, message):
    with pytest.raises(ValueError, match=message):
        attention_diversification_from_map(attention, tau=tau)


@pytest.mark.parametrize("place", ["query", "key", "bias", "masked query"])
@pytest.mark.parametrize("impl", IMPLS)
def test_one_nan_makes_the_loss_nan(impl, place):
    query, key, bias = torch.randn(2, 3, 40, 4), torch.randn(2, 3, 40, 4), torch.zeros(40, 40)
    # Attention this concentrated leaves most entries below the threshold.
    query *= 20
    if place == "key":
        key[1, 2, 17, 3] = math.nan
    elif place == "bias":
        bias[30, 20] = math.nan
    else:
        query[1, 2, 17, 3] = math.nan
    if place == "masked query":
        bias[17] = -math.inf
    assert attention_diversification(query, key, attn_bias=bias, impl=impl).isnan()
    if place in ("query", "key"):
        assert attention_diversification(query, key, impl=impl).isnan()
        assert attention_diversification(query, key, is_causal=True, impl=impl).isnan()


def test_one_nan_in_a_map_makes_the_loss_nan():
    attention = torch.randn(2, 3, 20, 20).softmax(-1)
    attention[1, 1, 7, 3] = math.nan
    assert attention_diversification_from_map(attention).isnan()


@pytest.mark.parametrize("impl", IMPLS)
def test_boolean_mask_means_what_it_means_to_torch(impl):
    query, key = torch.randn(2, 3, 6, 4), torch.randn(2, 3, 6, 4)
    mask = torch.rand(6, 6) > 0.3
    as_bias = torch.zeros(6, 6).masked_fill(~mask, -math.inf)
    expected = attention_diversification(query, key, attn_bias=as_bias, impl=impl)
    torch.testing.assert_close(attention_diversification(query, key, attn_bias=mask, impl=impl), expected)

    value = torch.eye(6).expand(2, 3, 6, 6)
    attention = torch.nn.functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    attention = attention.nan_to_num()  # torch leaves rows that may attend to nothing to the kernel
    torch.testing.assert_close(attention_diversification_from_map(attention), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_dtype_is_the_widest_of_query_and_key_and_at_least_float32(impl):
    for query, key, dtype in [
        (QUERY, KEY, torch.float32),
        (QUERY.half(), KEY.bfloat16(), torch.float32),
        (QUERY, KEY.double(), torch.float64),
    ]:
        assert attention_diversification(query, key, impl=impl).dtype == dtype


def test_auto_chooses_by_the_memory_a_map_takes():
    small = torch.zeros(1, 2, 100, 4, requires_grad=True)
    large = torch.zeros(1, 2, 400, 4, requires_grad=True)
    long = torch.zeros(1, 2, 1500, 4, requires_grad=True)
    for query, impl in [(small, "reference"), (large, "single_pass"), (long, "chunked")]:
        names = {
            name: type(attention_diversification(query, query, impl=name).grad_fn).__name__
            for name in ("auto", "reference", "single_pass", "chunked")
        }
        assert len(set(names.values())) == 3
        assert names["auto"] == names[impl]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch.func.jvp calls it
def test_auto_keeps_the_map_where_only_the_reference_can_be_differentiated():
    query, tangent = torch.randn(1, 2, 400, 4), torch.randn(1, 2, 400, 4)

    def loss(query, impl="auto"):
        return attention_diversification(query, query, tau=0.5, impl=impl)

    expected = torch.func.grad(lambda query: loss(query, "reference"))(query)
    assert expected.abs().max() > 0
    torch.testing.assert_close(torch.func.grad(loss)(query), expected)
    _, slope = torch.func.jvp(loss, (query,), (tangent,))
    torch.testing.assert_close(slope, (expected * tangent).sum())
    with forward_ad.dual_level():
        slope = forward_ad.unpack_dual(loss(forward_ad.make_dual(query, tangent))).tangent
    torch.testing.assert_close(slope, (expected * tangent).sum())


@pytest.mark.filterwarnings("ignore:.*torch.jit.script:FutureWarning")  # torch.func.jvp calls it
@pytest.mark.parametrize("of", ["query", "key", "bias"])
def test_chunked_refuses_what_it_cannot_differentiate_and_names_the_way_out(of):
    inputs = {"query": torch.randn(1, 2, 9, 4), "key": torch.randn(1, 2, 9, 4), "bias": torch.randn(9, 9)}

    def loss(value):
        query, key, bias = (inputs | {of: value}).values()
        return attention_diversification(query, key, attn_bias=bias, impl="chunked")

    message = 'no transform of torch.func and no forward-mode .* use impl="reference"'
    with pytest.raises(RuntimeError, match=message):
        torch.func.jvp(loss, (inputs[of],), (inputs[of],))
    with pytest.raises(RuntimeError, match=message):
        torch.func.grad(loss)(inputs[of])
    with forward_ad.dual_level(), pytest.raises(RuntimeError, match=message):
        loss(forward_ad.make_dual(inputs[of], inputs[of]))


@pytest.mark.parametrize("impl", IMPLS)
def test_meta_tensors_pass(impl):
    query, key = QUERY.to("meta"), KEY.to("meta")
    loss = attention_diversification(query, key, impl=impl)
    of_the_map = attention_diversification_from_map(torch.zeros(2, 3, 5, 7, device="meta"))
    assert loss.is_meta
    assert of_the_map.is_meta
    assert loss.shape == of_the_map.shape == ()


@pytest.mark.parametrize("impl", IMPLS)
def test_numbers_and_sizes_that_change_are_compiled_without_a_break(impl):
    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def compiled(query, tau, scale):
        return attention_diversification(query, query, tau=tau, scale=scale, impl=impl)

    for size, tau, scale in ((5, 1.5, 0.5), (6, 1.2, 0.25)):
        query = torch.randn(1, 2, size, 4)
        expected = attention_diversification(query, query, tau=tau, scale=scale, impl=impl)
        torch.testing.assert_close(compiled(query, tau, scale), expected)
