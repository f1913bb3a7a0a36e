import re

import pytest

from tapadl.demo.bench import Bench, load_data
from tapadl.demo.explorer import write_demo_explorer
from tapadl.demo.folder import DemoFolder
from tapadl.demo.settings import DemoSettings, ModelConfig
from tapadl.diagnostics.explorer.packing import unpack_page

SETTINGS = DemoSettings(
    variants=("plain", "adl", "tap+adl", "plain-equal-time"),
    train_images=60,
    evaluation_images=20,
    corruptions=("gaussian_noise", "shot_noise", "contrast"),
    severities=(2, 3, 4, 5),
    model=ModelConfig(embed_dim=16, depth=1, num_heads=2),
)


def header_of(path):
    (packed,) = re.findall(r'id="data">([^<]*)<', path.read_text(encoding="utf-8"))
    return unpack_page(packed)[0]


@pytest.mark.parametrize(
    ("variants", "names"),
    [
        (SETTINGS.variants, ["Plain ViT", "ViT + TAP + ADL"]),
        (("plain-equal-time",), ["Plain ViT, equal time"]),
    ],
)
def test_page_compares_plain_with_the_last_variant_on_images_chosen_by_rule(tmp_path, variants, names):
    bench = Bench.of(SETTINGS, load_data(SETTINGS))
    folder = DemoFolder(tmp_path, continued=False, job="")

    write_demo_explorer(bench, {variant: bench.new_model(variant, 0) for variant in variants}, folder)

    header = header_of(folder.explorer)
    assert [model["name"] for model in header["models"]] == names
    assert header["corruptions"] == ["gaussian_noise", "contrast"]
    assert header["severities"] == [0, 2, 3, 5]
    labels = list(dict.fromkeys(bench.evaluated.labels.tolist()))[:3]
    assert header["pictures"] == [bench.data.class_names[label] for label in labels]
    assert 'href="report.html"' in folder.explorer.read_text(encoding="utf-8")
