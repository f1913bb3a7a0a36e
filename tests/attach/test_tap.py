import copy
import io

import pytest
import timm
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.utils.hooks import RemovableHandle

import tapadl
from tapadl.attach.grid_recorder import GridRecorder
from tapadl.attach.tap import AttachedTAP

FAMILIES = {
    "class token": {},
    "global pooling": {"class_token": False, "global_pool": "avg"},
    "registers": {"reg_tokens": 4, "init_values": 1e-5},
    "DeiT-III": {"no_embed_class": True, "init_values": 1e-6},
    "patches alone have positions, registers": {"reg_tokens": 4, "no_embed_class": True},
}


def by_hand(model, images):
    """The arithmetic of the paper, block by block, without hooks."""
    grid = model.patch_embed.dynamic_feat_size(images.shape[-2:])
    taps = [block.tap for block in model.blocks]
    tapadl.detach_tap(model)
    tokens = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    for block, tap in zip(model.blocks, taps, strict=True):
        pooled = nn.Module.__call__(tap, tokens, grid, model.num_prefix_tokens)
        tokens = tokens + block.drop_path1(block.ls1(block.attn(block.norm1(pooled))))
        tokens = tokens + block.drop_path2(block.ls2(block.mlp(block.norm2(tokens))))
    return model.forward_head(model.norm(tokens))


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES.keys())
def test_attached_model_computes_the_blocks_of_the_paper(make_vit, images, options):
    model = tapadl.attach_tap(make_vit(**options)).eval()
    output = model(images)
    assert torch.equal(output, by_hand(model, images))


@pytest.mark.parametrize("options", FAMILIES.values(), ids=FAMILIES.keys())
def test_attach_then_detach_restores_output_and_keys(make_vit, images, options):
    model = make_vit(**options).eval()
    output, keys = model(images), list(model.state_dict())
    tapadl.attach_tap(model)
    assert not torch.equal(model(images), output)
    tapadl.detach_tap(model)
    assert torch.equal(model(images), output)
    assert list(model.state_dict()) == keys
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "deit3_small_patch16_224",
        "vit_small_patch14_reg4_dinov2",
    ],
)
def test_named_timm_models_take_tap_and_the_loss(name):
    model = tapadl.attach_tap(timm.create_model(name, img_size=112, depth=2, num_classes=3))
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        (model(torch.randn(2, 3, 112, 112)).square().mean() + diversification()).backward()
    assert all(parameter.grad is not None for key, parameter in model.named_parameters() if ".tap." in key)


def test_original_keys_are_kept_and_only_tap_is_added(make_vit):
    model = make_vit()
    before = model.state_dict()
    after = tapadl.attach_tap(model).state_dict()
    assert [key for key in after if ".tap." not in key] == list(before)
    assert "blocks.2.tap.dilation_predictor.proj.0.weight" in after
    dim, branches = 16, 4
    added = sum(p.numel() for key, p in model.named_parameters() if ".tap." in key)
    assert added == 3 * (9 * dim * branches + 9 * branches**2 + 2 * branches)


def test_attaching_twice_is_attaching_once(make_vit, images):
    model = tapadl.attach_tap(make_vit()).eval()
    output, keys = model(images), list(model.state_dict())
    hooks = sum(len(module._forward_pre_hooks) for module in model.modules())
    assert tapadl.attach_tap(model) is model
    assert torch.equal(model(images), output)
    assert list(model.state_dict()) == keys
    assert sum(len(module._forward_pre_hooks) for module in model.modules()) == hooks


def test_attaching_again_with_other_options_is_refused(make_vit):
    model = tapadl.attach_tap(make_vit())
    with pytest.raises(ValueError, match=r"blocks.0 has TAP with .*'num_branches': 4.*detach_tap"):
        tapadl.attach_tap(model, num_branches=3)


def test_blocks_selects_and_counts_from_the_end(make_vit):
    model = tapadl.attach_tap(make_vit(), blocks=[-1, 0])
    assert [hasattr(block, "tap") for block in model.blocks] == [True, False, True]
    tapadl.attach_tap(model, blocks=[1])
    assert all(hasattr(block, "tap") for block in model.blocks)


@pytest.mark.parametrize(
    ("blocks", "message"), [([3], r"indices of the 3 sites .* got 3"), ([], "at least one site")]
)
def test_wrong_blocks_are_named(make_vit, blocks, message):
    with pytest.raises(ValueError, match=message):
        tapadl.attach_tap(make_vit(), blocks=blocks)


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_tap_takes_device_dtype_and_mode_of_its_block(make_vit, init):
    model = make_vit().double().eval()
    tapadl.attach_tap(model, init=init)
    assert {p.dtype for p in model.parameters()} == {torch.float64}
    assert not any(module.training for module in model.modules())


def test_identity_start_leaves_the_output_bit_identical_and_learns(make_vit, images):
    model = make_vit()
    output = model(images)
    tapadl.attach_tap(model, init="identity")
    assert torch.equal(model(images), output)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(2):
        optimizer.zero_grad()
        model(images).square().sum().backward()
        optimizer.step()
    assert all(block.tap.gate.abs().max() > 0 for block in model.blocks)
    assert all(
        p.grad.abs().max() > 0
        for key, p in model.named_parameters()
        if key.endswith("tap.dilation_predictor.proj.0.weight")
    )


@pytest.mark.parametrize(
    "copy_model", [copy.deepcopy, lambda model: ModelEmaV3(model).module], ids=["deepcopy", "ema"]
)
def test_copies_are_independent(make_vit, images, copy_model):
    model = tapadl.attach_tap(make_vit(dynamic_img_size=True)).eval()
    output = model(images)
    other = copy_model(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.zero_()
    # Another image size goes through the copy; the grid of the original must not move with it.
    other(torch.randn(1, 3, 48, 32))
    recorders = {
        id(module.grid) for m in (model, other) for module in m.modules() if isinstance(module, AttachedTAP)
    }
    assert len(recorders) == 2
    assert torch.equal(model(images), output)
    tapadl.detach_tap(other)
    assert torch.equal(model(images), output)


def test_whole_model_can_be_pickled(make_vit, images):
    model = tapadl.attach_tap(make_vit()).eval()
    with tapadl.AttentionDiversificationLoss(model):
        buffer = io.BytesIO()
        torch.save(model, buffer)
    buffer.seek(0)
    loaded = torch.load(buffer, weights_only=False)
    assert torch.equal(loaded(images), model(images))


def test_state_dict_round_trip(make_vit, images):
    model = tapadl.attach_tap(make_vit())
    model(images)  # moves the batch-norm statistics
    other = tapadl.attach_tap(make_vit())
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(1)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.eval()(images), model.eval()(images))


def test_pretrained_weights_load_around_tap(make_vit):
    plain = make_vit().state_dict()
    missing = tapadl.attach_tap(make_vit()).load_state_dict(plain, strict=False)
    assert not missing.unexpected_keys
    assert all(".tap." in key for key in missing.missing_keys)


def test_loading_one_kind_of_tap_into_the_other_is_an_error_that_names_it(make_vit):
    paper = tapadl.attach_tap(make_vit())
    identity = tapadl.attach_tap(make_vit(), init="identity")
    with pytest.raises(RuntimeError, match=r'blocks.0.tap.* saved with init="paper"'):
        identity.load_state_dict(paper.state_dict(), strict=False)


@pytest.mark.parametrize("size", [(32, 48), (48, 32), (64, 64), (8, 40)])
def test_any_image_size_with_dynamic_img_size(make_vit, size):
    model = tapadl.attach_tap(make_vit(dynamic_img_size=True)).eval()
    images = torch.randn(2, 3, *size)
    assert torch.equal(model(images), by_hand(model, images))


def test_padding_of_odd_sizes_counts_in_the_grid(make_vit):
    model = tapadl.attach_tap(make_vit(dynamic_img_size=True, dynamic_img_pad=True)).eval()
    images = torch.randn(2, 3, 29, 43)
    assert torch.equal(model(images), by_hand(model, images))


def test_forward_features_and_intermediates_run_through_tap(make_vit, images):
    model = tapadl.attach_tap(make_vit()).eval()
    features = model.forward_features(images)
    final, intermediates = model.forward_intermediates(images)
    assert torch.equal(features, final)
    assert intermediates[-1].shape == (2, 16, 4, 6)
    plain = tapadl.detach_tap(model)
    assert not torch.equal(features, plain.forward_features(images))


def test_features_only_models_are_looked_into(images):
    model = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=(32, 48),
        patch_size=8,
        depth=2,
        features_only=True,
        out_indices=[0, 1],
    ).eval()
    plain = model(images)
    assert not torch.equal(tapadl.attach_tap(model)(images)[-1], plain[-1])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_gives_the_same_gradients(make_vit, images, use_reentrant):
    def gradients(checkpointing):
        model = tapadl.attach_tap(make_vit())
        if checkpointing:

            def run(tokens):
                for block in model.blocks:
                    tokens = torch.utils.checkpoint.checkpoint(block, tokens, use_reentrant=use_reentrant)
                return tokens

            model.blocks.forward = run
        model(images.requires_grad_()).square().sum().backward()
        return [p.grad for p in model.parameters()]

    for checkpointed, plain in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-6)


def test_checkpointed_blocks_find_their_grid_after_another_image_size(make_vit, images):
    def gradients(checkpointing):
        model = tapadl.attach_tap(make_vit(dynamic_img_size=True)).eval()
        model.set_grad_checkpointing(checkpointing)
        small = torch.ones(2, 3, 24, 16)
        (model(images).square().sum() + model(small).square().sum()).backward()
        return [p.grad for p in model.parameters()]

    for checkpointed, plain in zip(gradients(True), gradients(False), strict=True):
        torch.testing.assert_close(checkpointed, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.slow
def test_compiles_without_a_graph_break_at_two_sizes(make_vit, images):
    model = tapadl.attach_tap(make_vit(dynamic_img_size=True)).eval()
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for batch in (images, torch.randn(2, 3, 48, 40)):
        torch.testing.assert_close(compiled(batch), model(batch), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_exports_with_a_dynamic_batch(make_vit, images):
    model = tapadl.attach_tap(make_vit()).eval()
    exported = torch.export.export(model, (images,), dynamic_shapes=({0: torch.export.Dim("batch", min=2)},))
    batch = torch.randn(5, 3, 32, 48)
    torch.testing.assert_close(exported.module()(batch), model(batch), rtol=1e-4, atol=1e-5)


def test_checkpointed_images_of_clashing_shapes_in_one_backward_are_refused(make_vit):
    model = tapadl.attach_tap(make_vit(dynamic_img_size=True))
    model.set_grad_checkpointing()
    wide, tall = torch.randn(2, 3, 16, 48), torch.randn(2, 3, 48, 16)
    for images in (wide, tall):  # a backward for each is fine
        model(images).sum().backward()
    with torch.no_grad():
        model(wide), model(tall)
    model(wide).sum().backward()
    loss = model(wide).sum() + model(tall).sum()
    with pytest.raises(RuntimeError, match="different shapes with 12 patches in one backward"):
        loss.backward()


def test_tokens_dropped_to_the_count_of_an_earlier_image_are_an_error(make_vit, images):
    model = tapadl.attach_tap(make_vit(dynamic_img_size=True))
    model(torch.randn(1, 3, 16, 48))
    model(images)
    with pytest.raises(RuntimeError, match="no image with 12 patches"):
        model.blocks[0](torch.randn(1, 13, 16))


def test_autocast_bfloat16(make_vit, images):
    model = tapadl.attach_tap(make_vit()).eval()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model(images)
        output.float().sum().backward()
    assert (output.float() - model(images)).abs().max() < 0.1
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


def test_dropped_patches_are_refused(make_vit):
    with pytest.raises(ValueError, match=r"TAP does not fit blocks.0: patch dropout"):
        tapadl.attach_tap(make_vit(patch_drop_rate=0.5))


def test_tokens_without_a_grid_are_an_error(make_vit, images):
    model = tapadl.attach_tap(make_vit())
    model(images)
    with pytest.raises(
        RuntimeError, match=r"blocks.1 got 8 tokens \(1 of them prefix\), but no image with 7"
    ):
        model.blocks[1](torch.randn(1, 8, 16))


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match=r"expected a model \(a torch.nn.Module\), got str"):
        tapadl.attach_tap("deit_tiny_patch16_224")


@pytest.mark.parametrize(
    "model", [nn.Linear(3, 3), timm.create_model("resnet18", num_classes=2)], ids=["linear", "resnet"]
)
def test_a_model_without_attention_is_refused_with_what_was_looked_for(model):
    for attach in (tapadl.attach_tap, tapadl.AttentionDiversificationLoss, tapadl.describe):
        with pytest.raises(
            ValueError,
            match=r"found no attention .* in \S+\.(Linear|ResNet): supported are timm.*attention_sites\(\)",
        ):
            attach(model)


def test_a_norm_that_feeds_the_mlp_too_refuses_tap():
    model = timm.create_model(
        "vit_tiny_patch16_224", depth=2, block_fn=timm.models.vision_transformer.ParallelScalingBlock
    )
    with pytest.raises(ValueError, match=r"TAP does not fit blocks\.0: the norm .* also feeds the MLP"):
        tapadl.attach_tap(model)


def test_blocks_nobody_knows_are_refused():
    class OwnBlock(torch.nn.Module):
        def __init__(self, **_):
            super().__init__()

    model = timm.create_model("vit_tiny_patch16_224", depth=2, block_fn=OwnBlock)
    with pytest.raises(ValueError, match=r"found no attention to work on in .*VisionTransformer"):
        tapadl.attach_tap(model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_branches": 0}, "num_branches to be an integer of at least 1, got 0"),
        ({"num_branches": 2.5}, "num_branches to be an integer of at least 1, got 2.5"),
        ({"blocks": 1}, r"blocks to be a list of whole numbers, .*, got 1"),
        ({"temperature": 0.0}, "temperature above 0, got 0.0"),
        ({"init": "zero"}, "paper, identity, got 'zero'"),
        ({"sites": []}, "at least one tapadl.Site"),
    ],
)
def test_wrong_options_leave_the_model_as_it_was(make_vit, options, message):
    model = make_vit()
    keys = list(model.state_dict())
    with pytest.raises(ValueError, match=message):
        tapadl.attach_tap(model, **options)
    assert list(model.state_dict()) == keys
    assert not any(module._forward_pre_hooks for module in model.modules())


class OwnBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, tokens):
        normed = self.norm(tokens)
        return tokens + self.attention(normed, normed, normed, need_weights=False)[0]


class OwnModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 8, stride=8)
        self.block = OwnBlock()

    def forward(self, images):
        return self.block(self.stem(images).flatten(2).transpose(1, 2)).mean(1)

    def attention_sites(self):
        grid = tapadl.MeasuredGrid(
            self.stem, lambda _stem, inputs: (inputs[0].shape[-2] // 8, inputs[0].shape[-1] // 8)
        )
        return [tapadl.Site(self.block, self.block.attention, self.block.norm, 0, grid)]


def test_a_model_of_ones_own_offers_its_sites(images):
    model = OwnModel()
    plain = model(images)
    output = tapadl.attach_tap(model)(images)
    assert output.shape == plain.shape
    assert not torch.equal(output, plain)
    assert torch.equal(tapadl.detach_tap(model)(images), plain)


def test_sites_can_be_given_with_a_fixed_grid(images):
    model = OwnModel()
    site = tapadl.Site(model.block, model.block.attention, model.block.norm, 0, (4, 6))
    tapadl.attach_tap(nn.Sequential(model), sites=[site])
    assert model.block.tap.grid == (4, 6)
    assert model(images).isfinite().all()


def test_a_site_from_elsewhere_is_refused():
    model = OwnModel()
    site = tapadl.Site(model.block, model.block.attention, nn.LayerNorm(8), 0, (4, 6))
    with pytest.raises(
        ValueError, match=r"norm of the site at block to be a part of OwnModel, got a LayerNorm"
    ):
        tapadl.attach_tap(model, sites=[site])


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_batch_statistics_count_once_under_gradient_checkpointing(make_vit, images, use_reentrant):
    def buffers(checkpointing):
        model = tapadl.attach_tap(make_vit())
        tokens = model._pos_embed(model.patch_embed(images))
        for block in model.blocks:
            if checkpointing:
                tokens = torch.utils.checkpoint.checkpoint(block, tokens, use_reentrant=use_reentrant)
            else:
                tokens = block(tokens)
        tokens.square().sum().backward()
        assert all(block.tap.dilation_predictor.proj[1].momentum == 0.1 for block in model.blocks)
        return dict(model.named_buffers())

    checkpointed, plain = buffers(True), buffers(False)
    assert plain["blocks.2.tap.dilation_predictor.proj.1.num_batches_tracked"] == 1
    for name, value in plain.items():
        assert torch.equal(checkpointed[name], value), name


@pytest.mark.filterwarnings(
    "ignore::FutureWarning", "ignore::DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_tracing_that_would_fix_the_grid_is_refused(make_vit, images):
    with pytest.raises(RuntimeError, match=r"torch.jit.trace would fix the grid of TAP .* torch.export"):
        torch.jit.trace(tapadl.attach_tap(make_vit()).eval(), images)


def test_grid_recorder_is_shared_and_single(make_vit):
    model = tapadl.attach_tap(make_vit())
    tapadl.attach_tap(model)
    hooks = [getattr(hook, "__self__", None) for hook in model.patch_embed._forward_pre_hooks.values()]
    assert [type(owner) for owner in hooks] == [GridRecorder]
    assert {id(block.tap.grid) for block in model.blocks} == {id(hooks[0])}


def own_site(model, **changes):
    block = model.blocks[0]
    arguments = {"block": block, "attention": block.attn, "norm": block.norm1, "num_prefix_tokens": 1}
    return tapadl.Site(**(arguments | {"grid": (4, 6)} | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"entry": "forwrd"}, "entry to name a method of LayerNorm, got 'forwrd'"),
        ({"entry": 3}, "entry to name a method of LayerNorm, got 3"),
        ({"head_axis": "heads"}, "head_axis to be an integer or None, got 'heads'"),
        ({"grid": "NWHC"}, "expected grid to be .*, got 'NWHC'"),
        ({"grid": (2, 2, 6)}, r"expected grid to be .*, got \(2, 2, 6\)"),
        ({"grid": (4, -6)}, r"expected grid to be .*, got \(4, -6\)"),
        ({"grid": None}, "expected grid to be .*, got None"),
        ({"num_prefix_tokens": -3}, "num_prefix_tokens to be an integer of at least 0, got -3"),
        ({"norm": "norm1"}, "norm of a Site to be a module, got a str"),
    ],
)
def test_a_site_that_cannot_be_is_refused_when_it_is_made(make_vit, changes, message):
    with pytest.raises(ValueError, match=message):
        own_site(make_vit(), **changes)


@pytest.mark.parametrize(("module", "measure"), [(None, len), (torch.nn.Identity(), "rows")])
def test_a_grid_measured_of_nothing_is_refused(module, measure):
    with pytest.raises(ValueError, match="MeasuredGrid of a module and a function, got a"):
        tapadl.MeasuredGrid(module, measure)
    with pytest.raises(ValueError, match="padding to be a function or None, got list"):
        tapadl.SequenceGrid(padding=[])


def test_sites_that_share_a_block_or_a_norm_are_refused(make_vit):
    model = make_vit()
    for shared in (own_site(model), own_site(model, block=model.blocks[1])):
        with pytest.raises(ValueError, match="a block and a norm of its own of every site"):
            tapadl.attach_tap(model, sites=[own_site(model), shared])
    assert not any("tap" in name for name in model.state_dict())


def test_sites_are_a_list(make_vit):
    model = make_vit()
    with pytest.raises(ValueError, match=r"sites to be a list of tapadl\.Site, got Site"):
        tapadl.attach_tap(model, sites=own_site(model))


@pytest.mark.parametrize(
    "changes", [{"grid": (6, 4)}, {"num_prefix_tokens": 0}, {"grid": tapadl.SequenceGrid()}]
)
def test_attaching_again_for_another_grid_is_refused(make_vit, changes):
    model = make_vit()
    tapadl.attach_tap(model, sites=[own_site(model)])
    tapadl.attach_tap(model, sites=[own_site(model)])
    with pytest.raises(ValueError, match="has TAP for another grid or number of prefix tokens"):
        tapadl.attach_tap(model, sites=[own_site(model, **changes)])


def whole(_module, inputs):
    return inputs[0].shape[2] // 8, inputs[0].shape[3] // 8


def turned(_module, inputs):
    return inputs[0].shape[3] // 8, inputs[0].shape[2] // 8


def test_two_ways_to_measure_one_module_are_kept_apart(make_vit, images):
    model = make_vit().eval()
    grids = [tapadl.MeasuredGrid(model.patch_embed, measure) for measure in (whole, turned)]
    sites = [
        tapadl.Site(block, block.attn, block.norm1, 1, grid)
        for block, grid in zip(model.blocks[:2], grids, strict=True)
    ]
    tapadl.attach_tap(model, sites=sites)
    model(images)
    rows, cols = images.shape[2] // 8, images.shape[3] // 8
    assert rows != cols
    assert [model.blocks[i].tap.grid.grid_of(rows * cols) for i in (0, 1)] == [(rows, cols), (cols, rows)]


def test_hooks_that_come_after_unpickling_do_not_replace_those_of_tap(make_vit, images, monkeypatch):
    model = tapadl.attach_tap(make_vit()).eval()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    monkeypatch.setattr(RemovableHandle, "next_id", 0)  # as in another process
    loaded = torch.load(buffer, weights_only=False)
    for _ in range(10):
        for module in loaded.modules():
            module.register_forward_pre_hook(lambda _module, _inputs: None)
    assert torch.equal(loaded(images), model(images))


def test_a_copy_of_a_block_alone_says_that_it_sees_no_images(make_vit, images):
    model = tapadl.attach_tap(make_vit(dynamic_img_size=True))
    model(images)
    model.blocks.append(copy.deepcopy(model.blocks[0]))
    with pytest.raises(RuntimeError, match="no image with 24 patches went through the patch embedding"):
        model(images)


def test_models_that_are_wrapped_or_sharded_already_are_refused(make_vit):
    wrapped = object.__new__(nn.parallel.DistributedDataParallel)
    nn.Module.__init__(wrapped)
    wrapped.module = make_vit()
    with pytest.raises(ValueError, match="not yet sharded or wrapped in DistributedDataParallel"):
        tapadl.attach_tap(wrapped)
    fsdp = type("FullyShardedDataParallel", (nn.Sequential,), {})(make_vit())  # without a process group
    with pytest.raises(ValueError, match="not yet sharded or wrapped in DistributedDataParallel"):
        tapadl.attach_tap(fsdp)
    tapadl.attach_tap(wrapped.module)
    assert tapadl.attach_tap(wrapped) is wrapped
    sharded = make_vit()
    sharded.head.weight.device_mesh = "what DTensor has"
    with pytest.raises(ValueError, match="call attach_tap before"):
        tapadl.attach_tap(sharded)
    assert not hasattr(sharded.blocks[0], "tap")


def test_replicas_of_data_parallel_are_refused(make_vit, images):
    norm = tapadl.attach_tap(make_vit()).blocks[0].norm1._replicate_for_data_parallel()
    with pytest.raises(RuntimeError, match=r"use torch.nn.parallel.DistributedDataParallel"):
        norm(torch.zeros(1, 25, 16))


def test_tap_in_a_block_with_quantised_weights_is_floating(make_vit):
    model = make_vit()
    quantised = nn.Parameter(torch.zeros(3, dtype=torch.uint8), requires_grad=False)
    model.blocks[0].register_parameter("codes", quantised)
    tapadl.attach_tap(model.bfloat16())
    assert {p.dtype for p in model.blocks[0].tap.parameters()} == {torch.bfloat16}


def test_sites_that_are_none_are_named(images):
    class Wrong(OwnModel):
        def attention_sites(self):
            return ["block"]

    with pytest.raises(ValueError, match=r"attention_sites\(\) of Wrong to give tapadl.Site, got str"):
        tapadl.attach_tap(Wrong())
