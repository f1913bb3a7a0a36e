from torch import nn

import tapadl


def test_describe_prints_sites_what_is_attached_and_the_parameters_added(make_vit, capsys):
    model = tapadl.attach_tap(make_vit(), blocks=[0], num_branches=3)
    tapadl.attach_tap(model, blocks=[2], init="identity")
    with tapadl.AttentionDiversificationLoss(model, blocks=[1]):
        tapadl.describe(model)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "VisionTransformer: 3 attention sites"
    assert [line.split() for line in lines[1:5]] == [
        ["site", "block", "attention", "TAP", "ADL"],
        ["0", "blocks.0", "Attention", "3", "branches", "-"],
        ["1", "blocks.1", "Attention", "-", "listens"],
        ["2", "blocks.2", "Attention", "4", "branches,", "gated", "-"],
    ]
    added = sum(p.numel() for key, p in model.named_parameters() if ".tap." in key)
    total = sum(p.numel() for p in model.parameters())
    assert lines[5].startswith(f"TAP parameters: {added:,} of {total:,} (")
    assert added > 0
    tapadl.describe(model)  # the loss is closed
    assert "listens" not in capsys.readouterr().out


def test_describe_says_what_does_not_fit(make_vit, capsys):
    tapadl.describe(make_vit(patch_drop_rate=0.3))
    assert "does not fit: patch dropout leaves no grid" in capsys.readouterr().out


def test_describe_takes_the_sites_of_a_model_of_ones_own(capsys):
    model = nn.TransformerEncoderLayer(8, 2, batch_first=True, norm_first=True)
    site = tapadl.Site(model, model.self_attn, model.norm1, 0, (2, 3))
    tapadl.attach_tap(model, sites=[site])
    tapadl.describe(model, sites=[site])
    assert "MultiheadAttention  4 branches" in capsys.readouterr().out
