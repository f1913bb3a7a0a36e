"""Every family of timm: the table in the docs is true, and ADL is that of maps recorded without fusion."""

import copy
import importlib.util
import re
from pathlib import Path

import pytest
import timm
import torch
from torch.overrides import TorchFunctionMode

import tapadl
from tapadl.attach.site import find_sites

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "supported-models.md"


def script():
    spec = importlib.util.spec_from_file_location("supported_models", ROOT / "scripts/supported_models.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


supported_models = script()
TABLE = re.findall(r"^\| (\w+) \| `(\S+)` \|.*$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)

assert len(TABLE) > 50  # as the page is written now

# How many heads the softmax of a family sees and along which axis, where it is not (B, H, N, M).
FOLDED = {"vision_transformer_sam", "shvit", "iformer"}
WINDOWS_BEHIND_HEADS = {"nest", "hiera"}


@pytest.mark.parametrize(("family", "member"), TABLE, ids=[member for _, member in TABLE])
def test_the_line_of_the_table_is_what_happens(family, member):
    line = supported_models.examine(family, member).markdown()
    assert line in PAGE.read_text(encoding="utf-8")


def test_the_table_and_the_families_without_attention_are_all_families():
    page = PAGE.read_text(encoding="utf-8")
    version = re.search(r"family of timm (\S+) ", page)[1]
    if version != timm.__version__:
        pytest.skip(f"the page is of timm {version}")
    without = re.search(r"says so: (.*)\.$", page, flags=re.MULTILINE)[1].split(", ")
    families = set(timm.list_modules()) - {"registry"}  # where tapadl.models registers, once it is imported
    assert {family for family, _ in TABLE} | set(without) == families


class Recorder(TorchFunctionMode):
    def __init__(self):
        super().__init__()
        self.maps = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") == "softmax":
            self.maps.append(output.detach())
        return output


def loss_of(attention, tau):
    """ADL of one map (B, H, N, M), image by image and query by query."""
    losses = []
    for rows in attention.mean(1):
        mean_row = rows.mean(0)
        threshold = tau / rows.shape[1]
        kept = torch.where(rows > threshold, rows, 0.0)
        kept_mean = torch.where(mean_row > threshold, mean_row, 0.0)
        norms = kept.norm(dim=1) * kept_mean.norm()
        losses.append(torch.where(norms > 0, kept @ kept_mean / norms.clamp_min(1e-300), 0.0))
    return torch.stack(losses).mean()


def with_four_axes(attention, family, num_heads):
    if family in WINDOWS_BEHIND_HEADS and attention.ndim == 5:
        attention = attention.transpose(1, 2)
    if family in FOLDED:
        batch = attention.shape[0] // num_heads
        return attention.reshape(batch, num_heads, *attention.shape[-2:])
    return attention.reshape(-1, *attention.shape[-3:])


# The column behind TAP's says "yes".
HEARD = re.findall(r"^\| (\w+) \| `(\S+)` \| [^|]* \| [^|]* \| yes \|", PAGE.read_text("utf-8"), re.MULTILINE)


@pytest.mark.parametrize(("family", "member"), HEARD, ids=[member for _, member in HEARD])
def test_adl_is_that_of_maps_recorded_without_fused_kernels(family, member):
    built = supported_models.build(family, member)
    model, images = built.model.double(), built.images.double()
    sites = find_sites(model)
    with tapadl.AttentionDiversificationLoss(model, tau=1.0) as diversification:
        model(images)
        losses = [loss.detach() for loss in diversification.per_layer()]

    recorders = [Recorder() for _ in sites]
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    for site, recorder in zip(sites, recorders, strict=True):
        site.attention.register_forward_pre_hook(lambda *_, recorder=recorder: recorder.__enter__() and None)
        site.attention.register_forward_hook(
            lambda *_, recorder=recorder: recorder.__exit__(None, None, None)
        )
    with torch.no_grad():
        model(images)
    maps = [
        with_four_axes(attention, family, getattr(site.attention, "num_heads", 1))
        for site, recorder in zip(sites, recorders, strict=True)
        for attention in recorder.maps
    ]
    assert len(maps) == len(losses) == len(sites)
    for attention, loss in zip(maps, losses, strict=True):
        torch.testing.assert_close(attention.sum(-1), torch.ones_like(attention[..., 0]))
        torch.testing.assert_close(loss, loss_of(attention, tau=1.0), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "member", ["pvt_v2_b0", "twins_svt_small", "mobilevit_xxs", "pit_ti_224", "caformer_s18", "davit_tiny"]
)
def test_forward_features_is_heard_whole_where_every_stage_tells_its_grid(member):
    torch.manual_seed(0)
    model = timm.create_model(member).eval()
    images = torch.randn(1, 3, 224, 224)
    with tapadl.AttentionDiversificationLoss(model, tau=1.0) as diversification:
        model(images)
        whole = [loss.item() for loss in diversification.per_layer()]
        model.forward_features(images)
        assert [loss.item() for loss in diversification.per_layer()] == whole
        model.forward_features(images)  # nobody asked for the loss of this one
        model.forward_features(images)
        assert [loss.item() for loss in diversification.per_layer()] == whole


@pytest.mark.parametrize(
    ("member", "options"),
    [
        ("vit_base_patch16_clip_224", {}),  # a norm in front of all blocks
        ("vit_base_patch16_siglip_224", {}),  # no class token, pooled by attention
        ("vit_base_patch16_224", {"global_pool": "avg", "class_token": False}),  # as MAE is fine-tuned
        ("vit_base_patch16_rpn_224", {}),  # a norm behind the attention
        ("vit_small_patch16_18x2_224", {}),  # attentions side by side
        ("vit_relpos_small_patch16_rpn_224", {}),
        ("deit3_small_patch16_224", {}),
        ("deit_tiny_distilled_patch16_224", {}),
        ("vit_small_patch14_reg4_dinov2", {"dynamic_img_size": True}),
        ("eva02_tiny_patch14_224", {"dynamic_img_size": True}),
        ("vit_small_patch16_dinov3", {}),
        ("vit_small_patch16_rope_224", {"dynamic_img_size": True}),
        ("beitv2_base_patch16_224", {}),
        ("maxvit_rmlp_nano_rw_256", {}),
        ("coatnet_rmlp_nano_rw_224", {}),
    ],
)
def test_both_fit_the_variants_of_a_family(member, options):
    depth = {} if "max" in member or "coat" in member else {"depth": 2}
    torch.manual_seed(0)
    model = timm.create_model(member, **options, **depth)
    side = model.pretrained_cfg["input_size"][1]
    images = torch.randn(2, 3, side, side)
    tapadl.attach_tap(model, init="identity")
    with tapadl.AttentionDiversificationLoss(model, tau=1.0) as diversification:
        (model(images).sum() + diversification()).backward()
    gates = [p.grad for name, p in model.named_parameters() if name.endswith("tap.gate")]
    assert len(gates) == len(find_sites(model))
    assert all(gate.any() for gate in gates)


def test_swin_v2_pools_in_front_of_its_windows_and_leaves_the_residual_alone():
    torch.manual_seed(0)
    model = timm.create_model("swinv2_tiny_window8_256", img_size=(128, 256), depths=(1, 1, 1, 1)).eval()
    block = model.layers[0].blocks[0]
    tokens = torch.randn(2, 32, 64, 96)
    tapadl.attach_tap(model)
    pooled = block.tap(tokens.flatten(1, 2), (32, 64)).unflatten(1, (32, 64))
    attended = tokens + block.norm1(type(block)._attn(block, pooled))
    want = attended.flatten(1, 2)
    want = want + block.norm2(block.mlp(want))
    torch.testing.assert_close(block(tokens), want.unflatten(1, (32, 64)))


def test_a_pooled_method_is_copied_compiled_and_checkpointed_like_a_hook():
    torch.manual_seed(0)
    model = timm.create_model(
        "swinv2_tiny_window8_256", img_size=64, window_size=4, depths=(1, 1), embed_dim=24, num_heads=(1, 2)
    )
    images = torch.randn(2, 3, 64, 64)
    tapadl.attach_tap(model.eval())
    output = model(images)
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.1)
    assert torch.equal(model(images), output)
    assert not torch.equal(copied(images), output)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), output)

    model.train().set_grad_checkpointing(True)
    with tapadl.AttentionDiversificationLoss(model, tau=1.0) as diversification:
        (model(images).sum() + diversification()).backward()
    assert model.layers[0].blocks[0].tap.dilation_predictor.proj[1].num_batches_tracked == 1


def test_a_family_that_refuses_says_why():
    with pytest.raises(ValueError, match=r"ADL has no meaning at blocks\.0: it attends over channels"):
        tapadl.AttentionDiversificationLoss(timm.create_model("xcit_nano_12_p16_224"))
    with pytest.raises(
        ValueError, match="EdgeNeXt takes neither TAP nor ADL: its attention is over channels"
    ):
        tapadl.attach_tap(timm.create_model("edgenext_xx_small"))


def test_a_block_that_would_run_tap_as_its_next_step_is_refused():
    attention, norm = torch.nn.Linear(8, 8), torch.nn.LayerNorm(8)
    model = torch.nn.Sequential(norm, attention)
    site = tapadl.Site(block=model, attention=attention, norm=norm, num_prefix_tokens=0, grid=(2, 2))
    with pytest.raises(ValueError, match=r"block of the site at .* to be no Sequential"):
        tapadl.attach_tap(model, sites=[site])
