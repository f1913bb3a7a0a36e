import json
import os
import pickle
import sys

import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn

import tapadl
from tapadl.evaluation.loading import load_model
from tapadl.evaluation.preprocessing import Preprocessing
from tapadl.evaluation.weights import weights_sha256
from tapadl.tasks.classification.recipe import ClassificationRecipe
from tapadl.training.parallel import joined
from tapadl.training.settings import (
    AugmentationSettings,
    DataSettings,
    ModelSettings,
    Settings,
    TapSettings,
)

IMAGES = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(3))


def vit(num_classes: int = 10, seed: int = 0) -> nn.Module:
    """timm's smallest ViT, 160 pixels."""
    torch.manual_seed(seed)
    return timm.create_model("test_vit", num_classes=num_classes).eval()


def vit_with_tap(**options) -> nn.Module:
    model = tapadl.attach_tap(vit(), **options)
    for name, parameter in model.named_parameters():
        if name.endswith("tap.gate"):
            nn.init.normal_(parameter)
    return model.eval()


def save(model: nn.Module, path, **metadata: str):
    save_file(model.state_dict(), path, metadata or None)
    return path


def write_folder(folder, model: nn.Module, **config):
    folder.mkdir()
    save(model, folder / "model.safetensors")
    content = {
        "architecture": "test_vit",
        "num_classes": 10,
        "pretrained_cfg": model.pretrained_cfg,
        **config,
    }
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def write_hub_cache(cache, repository: str, folder):
    """A hub's files as if they had been downloaded."""
    root = cache / f"models--{repository.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text("0" * 40)
    (root / "snapshots").mkdir()
    folder.rename(root / "snapshots" / ("0" * 40))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    constants = pytest.importorskip("huggingface_hub").constants
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("own_model_")]:
        del sys.modules[name]


# timm


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_checkpoint_of_a_timm_model_is_loaded_with_its_number_of_classes(tmp_path, suffix):
    model, path = vit(num_classes=7), tmp_path / f"best{suffix}"
    if suffix == ".pth":
        torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)
    else:
        save(model, path)
    loaded = load_model("test_vit", checkpoint=path)
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))
    assert not loaded.model.training
    assert loaded.name == "test_vit"
    assert loaded.preprocessing.image_size == (160, 160)
    assert loaded.facts["outputs"] == "7"
    assert loaded.facts["checkpoint"] == path.name
    assert len(loaded.facts["checkpoint_sha256"]) == 64
    assert loaded.facts["library_version"] == timm.__version__
    assert int(loaded.facts["parameters"]) == sum(p.numel() for p in model.parameters())


def test_the_average_of_the_weights_is_taken_where_there_is_one(tmp_path):
    torch.save(
        {"state_dict": vit().state_dict(), "state_dict_ema": vit(seed=1).state_dict()}, tmp_path / "a.pth"
    )
    loaded = load_model("test_vit", checkpoint=tmp_path / "a.pth")
    assert torch.equal(loaded.model(IMAGES), vit(seed=1)(IMAGES))


def test_models_of_tapadl_are_known_by_name(tmp_path):
    model = timm.create_model("tap_fan_tiny_12_p16_224", num_classes=5).eval()
    loaded = load_model("tap_fan_tiny_12_p16_224", checkpoint=save(model, tmp_path / "fan.safetensors"))
    assert loaded.facts["outputs"] == "5"
    assert loaded.weights_sha256 == weights_sha256(model)


def test_a_converted_file_says_itself_of_which_model_it_is(tmp_path):
    path = save(vit(), tmp_path / "converted.safetensors", model_name="test_vit")
    loaded = load_model(str(path))
    assert torch.equal(loaded.model(IMAGES), vit()(IMAGES))
    assert loaded.name == "converted.safetensors"
    assert loaded.facts["architecture"] == "test_vit"


@pytest.mark.parametrize("init", ["paper", "identity"])
def test_tap_in_a_checkpoint_is_attached_where_the_file_has_it(tmp_path, init):
    model = vit_with_tap(num_branches=3, init=init, blocks=[1, 4])
    loaded = load_model("test_vit", checkpoint=save(model, tmp_path / "tap.safetensors"))
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))
    assert not torch.equal(loaded.model(IMAGES), vit()(IMAGES))
    assert loaded.facts["tap"] == "in 2 blocks, 3 branches, temperature taken to be 1"


def test_the_temperature_of_tap_is_taken_from_a_file_that_says_it(tmp_path):
    model = vit_with_tap(temperature=0.25)
    path = tmp_path / "tap.safetensors"
    save_file(dict(model.state_dict()), path, {"tap_temperature": "0.25"})
    loaded = load_model("test_vit", checkpoint=path)
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))
    assert loaded.facts["tap"].endswith("temperature 0.25")
    save_file(dict(model.state_dict()), path)
    assert not torch.equal(load_model("test_vit", checkpoint=path).model(IMAGES), model(IMAGES))


def test_blocks_may_differ_in_their_number_of_branches(tmp_path):
    model = tapadl.attach_tap(vit_with_tap(num_branches=2, blocks=[0]), num_branches=4, blocks=[1]).eval()
    loaded = load_model("test_vit", checkpoint=save(model, tmp_path / "tap.safetensors"))
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))
    assert "2, 4 branches" in loaded.facts["tap"]


def test_tap_where_the_model_has_no_attention_is_refused(tmp_path):
    state = {
        key.replace("blocks.1.tap", "head.tap"): value for key, value in vit_with_tap().state_dict().items()
    }
    save_file(state, tmp_path / "tap.safetensors")
    with pytest.raises(ValueError, match=r"found none at head$"):
        load_model("test_vit", checkpoint=tmp_path / "tap.safetensors")


@pytest.mark.parametrize("spec", ["local-dir:{}", "{}"])
def test_a_folder_in_the_format_of_timm_is_loaded(tmp_path, spec):
    folder = write_folder(tmp_path / "folder", vit())
    loaded = load_model(spec.format(folder))
    assert torch.equal(loaded.model(IMAGES), vit()(IMAGES))
    assert loaded.name == "folder"
    assert loaded.facts["checkpoint"] == "model.safetensors"


def test_facts_hold_no_folders_of_the_machine(tmp_path):
    folder = write_folder(tmp_path / "folder", vit())
    for loaded in (load_model(str(folder)), load_model("test_vit", checkpoint=folder / "model.safetensors")):
        assert str(tmp_path) not in json.dumps([loaded.name, dict(loaded.facts)])


def test_a_folder_with_tap_is_loaded(tmp_path):
    model = vit_with_tap()
    loaded = load_model(str(write_folder(tmp_path / "folder", model)))
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harmed",)


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_pickle_that_runs_code_is_refused_and_not_run(here, kind):
    folder = write_folder(here / "folder", vit())
    (folder / "model.safetensors").unlink()
    torch.save({"head.weight": Harmful()}, folder / "pytorch_model.bin")
    spec = "local-dir:folder" if kind == "folder" else "test_vit"
    checkpoint = folder / "pytorch_model.bin" if kind == "file" else None
    with pytest.raises(ValueError, match=r"mkdir, which is not known to be harmless"):
        load_model(spec, checkpoint=checkpoint)
    assert not (here / "harmed").exists()


def test_a_model_on_a_hub_is_loaded(tmp_path, hub):
    write_hub_cache(hub, "someone/vit", write_folder(tmp_path / "folder", vit()))
    loaded = load_model("hf-hub:someone/vit")
    assert torch.equal(loaded.model(IMAGES), vit()(IMAGES))
    assert loaded.name == "hf-hub:someone/vit"
    assert loaded.facts["weights"] == "someone/vit"


def test_a_model_with_tap_on_a_hub_is_loaded(tmp_path, hub):
    model = vit_with_tap()
    write_hub_cache(hub, "someone/vit-tap", write_folder(tmp_path / "folder", model))
    loaded = load_model("hf-hub:someone/vit-tap")
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))


def test_a_hub_cannot_name_another_file_to_be_read(tmp_path, hub):
    config = vit().pretrained_cfg | {"hf_hub_filename": "other.bin", "custom_load": "hf"}
    folder = write_folder(tmp_path / "folder", vit(), pretrained_cfg=config)
    (folder / "other.bin").write_bytes(pickle.dumps({"head.weight": Harmful()}))
    write_hub_cache(hub, "someone/vit", folder)
    assert torch.equal(load_model("hf-hub:someone/vit").model(IMAGES), vit()(IMAGES))


def test_pretrained_weights_of_timm_come_from_its_hub(tmp_path, hub):
    model = vit(num_classes=1000)
    write_hub_cache(hub, "timm/test_vit.r160_in1k", write_folder(tmp_path / "folder", model))
    loaded = load_model("test_vit")
    assert torch.equal(loaded.model(IMAGES), model(IMAGES))
    assert loaded.facts["weights"] == "timm/test_vit.r160_in1k"


@pytest.mark.parametrize("spec", ["test_vit", "hf-hub:someone/none", "transformers:someone/none"])
def test_what_cannot_be_downloaded_is_told(hub, spec):
    if spec.startswith("transformers"):
        pytest.importorskip("transformers")
    with pytest.raises(OSError, match=r"could not load .*without a network, give a file or a folder"):
        load_model(spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("vit_tny_patch16_224", r"no model 'vit_tny_patch16_224'; did you mean .*vit_tiny_patch16_224"),
        ("test_vit.nope", r"no weights 'test_vit.nope', it has test_vit.r160_in1k"),
        ("fan_tiny_12_p16_224", r"no weights of fan_tiny_12_p16_224 can be downloaded; give a checkpoint"),
        ("hf-hub:", r"a name after hf-hub:"),
        ("no/such/place", r"found no file or folder no/such/place; expected a name of timm"),
        ("no/such/file.pth", r"expected a checkpoint at no/such/file.pth, found no file"),
        ("torchvision:vit_b_1", r"no classifier 'vit_b_1'; did you mean vit_b_16"),
        ("torchvision:fcn_resnet50", r"no classifier 'fcn_resnet50'"),
    ],
)
def test_unknown_models_are_told_with_the_nearest(spec, message):
    with pytest.raises(ValueError, match=message):
        load_model(spec)


def test_a_file_that_does_not_say_its_model_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"weights.safetensors does not say of which model it is; name the model"
    ):
        load_model(str(save(vit(), tmp_path / "weights.safetensors")))


def test_weights_of_another_architecture_are_counted_and_named(tmp_path):
    path = save(timm.create_model("test_vit2", num_classes=10), tmp_path / "other.safetensors")
    message = r"in other.safetensors, found 3 missing \(cls_token, .*\), \d+ unexpected \(blocks"
    with pytest.raises(ValueError, match=message):
        load_model("test_vit", checkpoint=path)


def test_missing_and_misshapen_weights_are_counted_and_named(tmp_path):
    state = vit().state_dict()
    del state["norm.weight"]
    state["pos_embed"] = torch.zeros(1, 5, 64)
    save_file(state, tmp_path / "cut.safetensors")
    message = (
        r"1 missing \(norm.weight\), 1 of another shape \(pos_embed of \(1, 5, 64\) for \(1, 101, 64\)\)"
    )
    with pytest.raises(ValueError, match=message):
        load_model("test_vit", checkpoint=tmp_path / "cut.safetensors")


def test_a_model_without_classifier_is_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", vit(num_classes=0), num_classes=0)
    with pytest.raises(ValueError, match=r"test_vit has no classifier, it gives features"):
        load_model(str(folder))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, r"expected config.json in the folder"),
        ("{", r"expected JSON in config.json of folder"),
        ("[]", r"expected an object in config.json of folder, got a list"),
        ("{}", r"expected an architecture in config.json of folder"),
        ('{"architecture": "test_vitt"}', r"no model 'test_vitt', which .* did you mean test_vit"),
        ('{"model_type": "vit"}', r"folder of transformers; write transformers:folder"),
        ('{"architecture": "test_vit", "pretrained_cfg": {"no": 1}}', r"could not build the model"),
    ],
)
def test_folders_that_are_none_are_told(tmp_path, config, message):
    folder = write_folder(tmp_path / "folder", vit())
    (folder / "config.json").unlink()
    if config is not None:
        (folder / "config.json").write_text(config)
    with pytest.raises(ValueError, match=message):
        load_model(str(folder))


def test_a_folder_with_several_unknown_weights_is_refused(tmp_path):
    folder = write_folder(tmp_path / "folder", vit())
    (folder / "model.safetensors").rename(folder / "first.safetensors")
    assert load_model(str(folder)).facts["checkpoint"] == "first.safetensors"
    save(vit(), folder / "second.safetensors")
    with pytest.raises(ValueError, match=r"one file of weights in folder.*found first.*, second"):
        load_model(str(folder))


@pytest.mark.parametrize("spec", ["hf-hub:a/b", "transformers:a/b", "weights.safetensors"])
def test_a_second_checkpoint_beside_weights_is_refused(tmp_path, spec):
    message = "expected no checkpoint beside|beside the checkpoint weights.pth, got a file"
    with pytest.raises(ValueError, match=message):
        load_model(spec, checkpoint=tmp_path / "weights.pth")


# torchvision


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_1"])
def test_a_checkpoint_of_a_torchvision_model_is_loaded(tmp_path, name):
    model = torchvision.models.get_model(name, weights=None, num_classes=6).eval()
    loaded = load_model(f"torchvision:{name}", checkpoint=save(model, tmp_path / "tv.safetensors"))
    images = torch.randn(2, 3, 224, 224)
    assert torch.equal(loaded.model(images), model(images))
    assert loaded.facts["outputs"] == "6"
    assert loaded.facts["library_version"] == torchvision.__version__.split("+")[0]
    assert loaded.preprocessing.crop_pct == 0.875


# transformers


def write_transformers(folder, **tap):
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    settings |= {"image_size": 32, "patch_size": 8, "num_labels": 4}
    model = transformers.ViTForImageClassification(transformers.ViTConfig(**settings)).eval()
    if tap:
        tapadl.attach_tap(model, **tap)
        for parameter in model.parameters():  # the gate of "identity" is closed at first
            nn.init.normal_(parameter)
        model.eval()
    model.save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    ("tap", "fact"),
    [
        ({}, None),
        ({"num_branches": 4}, "in 2 blocks, 4 branches, temperature taken to be 1"),
        ({"num_branches": 2, "init": "identity"}, "in 2 blocks, 2 branches, temperature taken to be 1"),
        ({"blocks": [1]}, "in 1 blocks, 4 branches, temperature taken to be 1"),
    ],
)
def test_a_classifier_of_transformers_gives_its_logits(tmp_path, tap, fact):
    model = write_transformers(tmp_path / "vit", **tap)
    loaded = load_model(f"transformers:{tmp_path / 'vit'}")
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(loaded.model(images), model(images).logits)
    assert loaded.name == "vit"
    assert loaded.preprocessing.image_size == (32, 32)
    assert loaded.weights_sha256 == weights_sha256(model)
    assert loaded.facts["architecture"] == "ViTForImageClassification"
    assert loaded.facts.get("tap") == fact
    assert str(tmp_path) not in json.dumps(dict(loaded.facts))


def test_a_head_that_would_stay_random_is_refused(tmp_path):
    write_transformers(tmp_path / "vit")
    path = tmp_path / "vit" / "model.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if not k.startswith("classifier")}, path, {"format": "pt"})
    with pytest.raises(
        ValueError, match=r"vit lacks weights .*random: 2, classifier.bias, classifier.weight"
    ):
        load_model(f"transformers:{tmp_path / 'vit'}")


def test_pickles_of_transformers_are_not_read(tmp_path):
    write_transformers(tmp_path / "vit")
    (tmp_path / "vit" / "model.safetensors").unlink()
    (tmp_path / "vit" / "pytorch_model.bin").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(OSError, match=r"could not load vit with transformers: .*safetensors"):
        load_model(f"transformers:{tmp_path / 'vit'}")


def test_transformers_that_is_not_installed_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ValueError, match=r"pip install 'tapadl\[transformers\]'"):
        load_model("transformers:someone/vit")


# functions of one's own

OWN = """
import torch
from torch import nn
from tapadl.evaluation.preprocessing import Preprocessing

GRAY = Preprocessing((8, 8), (0.5,), (0.5,))

class Linear(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.9))

def pair():
    return Linear(), GRAY

def half():
    return Linear().bfloat16(), GRAY

def attribute():
    model = Linear()
    model.preprocessing = GRAY
    return model

def zoo():
    import timm
    return timm.create_model("test_vit", num_classes=3)

def zoo_of_another_size():
    import timm
    return timm.create_model("vit_tiny_patch16_224", depth=1, img_size=32)

def silent():
    return Linear()

def raises():
    raise KeyError("no weights here")

def number():
    return 3

def map_of_logits():
    return nn.Conv2d(1, 3, 1), GRAY

def two_outputs():
    class Two(Linear):
        def forward(self, images):
            return super().forward(images), images
    return Two(), GRAY

value = 3
"""


@pytest.fixture
def own(here):
    (here / "own_model_file.py").write_text(OWN)
    return "own_model_file"


@pytest.mark.parametrize("function", ["pair", "attribute", "half"])
def test_a_function_in_the_current_folder_gives_the_model(own, function):
    path_before = list(sys.path)
    loaded = load_model(f"{own}:{function}")
    assert all(parameter.dtype == torch.float32 for parameter in loaded.model.parameters())
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.model(images), loaded.model(images))  # dropout is off
    assert loaded.preprocessing == Preprocessing((8, 8), (0.5,), (0.5,))
    assert loaded.name == f"own_model_file:{function}"
    assert loaded.facts["library"] == "own"
    assert loaded.facts["outputs"] == "3"
    assert sys.path == path_before


def test_a_function_that_builds_a_timm_model_needs_no_preprocessing(own):
    assert load_model(f"{own}:zoo").preprocessing.image_size == (160, 160)


def test_a_function_takes_weights_from_a_checkpoint(own, here):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.Dropout(0.9)).eval()
    loaded = load_model(f"{own}:pair", checkpoint=save(model, here / "own.safetensors"))
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(loaded.model(images), model(images))


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("own_model_none:build", r"found no module own_model_none, neither installed nor"),
        ("own_model_needs:build", r"own_model_needs needs own_missing_library, which is not installed"),
        ("own_model_broken:build", r"importing own_model_broken failed: ZeroDivisionError: division by zero"),
        ("own_model_file:pear", r"no function pear in own_model_file; did you mean pair"),
        ("own_model_file:value", r"no function value in own_model_file"),
        ("own_model_file:raises", r"own_model_file:raises failed: KeyError: 'no weights here'"),
        ("own_model_file:number", r"to return a torch.nn.Module, or \(model, Preprocessing\), got int"),
        ("own_model_file:silent", r"to say what is done to a picture, .* got NoneType"),
        ("own_model_file:zoo_of_another_size", r"fails on an image of \(1, 3, 224, 224\): Input height"),
        ("own_model_file:map_of_logits", r"logits \(1, outputs\) .* got \(1, 3, 8, 8\)"),
        ("own_model_file:two_outputs", r"logits \(1, outputs\) .* got tuple"),
    ],
)
def test_functions_that_fail_are_told(own, here, spec, message):
    (here / "own_model_needs.py").write_text("import own_missing_library")
    (here / "own_model_broken.py").write_text("1 / 0")
    with pytest.raises(ValueError, match=message):
        load_model(spec)


# hashes


def test_the_hash_is_of_names_types_shapes_and_values_and_not_of_order():
    class Two(nn.Module):
        def __init__(self, names, dtype=torch.float32, shape=(2, 3), value=1.0):
            super().__init__()
            for name in names:
                self.register_buffer(name, torch.full(shape, value, dtype=dtype))

    same = weights_sha256(Two(["a", "b"]))
    assert weights_sha256(Two(["b", "a"])) == same
    others = [Two(["a", "c"]), Two(["a", "b"], value=2.0), Two(["a", "b"], shape=(3, 2))]
    others += [Two(["a", "b"], torch.int32), Two(["a", "b"], torch.bfloat16)]
    assert len({same, *map(weights_sha256, others)}) == 6


def test_the_hash_does_not_depend_on_the_file(tmp_path):
    torch.save(vit().state_dict(), tmp_path / "a.pth")
    first = load_model("test_vit", checkpoint=tmp_path / "a.pth")
    second = load_model("test_vit", checkpoint=save(vit(), tmp_path / "a.safetensors"))
    assert first.weights_sha256 == second.weights_sha256
    assert first.facts["checkpoint_sha256"] != second.facts["checkpoint_sha256"]


def trained(tmp_path, settings):
    """A file of weights as `tapadl train` writes it, and what was trained."""
    with joined(torch.device("cpu")):
        recipe = ClassificationRecipe.of(settings, torch.device("cpu"))
    model = recipe.built.model.eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) / 9)
    return save(model, tmp_path / "trained.safetensors", **recipe.facts()), recipe.built


def small(**augmentation):
    options = {"img_size": 28, "in_chans": 1, "depth": 2, "patch_size": 7, "embed_dim": 16, "num_heads": 2}
    return Settings(
        ModelSettings("vit_tiny_patch16_224", options=options),
        DataSettings("embedded"),
        tap=TapSettings(temperature=0.3),
        augmentation=AugmentationSettings(**augmentation),
    )


def test_a_file_of_ones_own_training_is_shown_images_as_in_training(tmp_path):
    path, built = trained(tmp_path, small(mean=(0.0,), std=(1.0,), crop_pct=1.0, interpolation="bilinear"))
    loaded = load_model(str(path))
    assert loaded.preprocessing == built.preprocessing
    assert (loaded.preprocessing.mean, loaded.preprocessing.image_size) == ((0.0,), (28, 28))
    images = torch.rand(2, 1, 28, 28, generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.model(images), built.model(images))
    assert loaded.facts["architecture"] == "vit_tiny_patch16_224"
    assert loaded.facts["tap"] == "in 2 blocks, 4 branches, temperature 0.3"


def test_a_damaged_description_in_a_file_is_told(tmp_path):
    path = save(vit(), tmp_path / "strange.safetensors", model_name="test_vit", config="[1")
    with pytest.raises(ValueError, match=r"JSON in config\.json of strange\.safetensors, but it is damaged"):
        load_model(str(path))


def test_the_temperature_in_a_file_reaches_tap_that_is_built_in(tmp_path):
    torch.manual_seed(0)
    model = timm.create_model("tap_rvt_tiny", num_classes=5).eval()
    path = save(model, tmp_path / "hot.safetensors", model_name="tap_rvt_tiny", tap_temperature="2")
    images = torch.ones(1, 3, 32, 32)
    cold = model(images)
    for module in model.modules():
        if isinstance(module, tapadl.TokenAwareAveragePooling):
            module.temperature = 2.0
    for loaded in (load_model(str(path)), load_model("tap_rvt_tiny", checkpoint=path)):
        assert torch.equal(loaded.model(images), model(images))
        assert not torch.equal(loaded.model(images), cold)


@pytest.mark.parametrize("written", ["warm", "0", "-1", "nan", "inf"])
def test_a_temperature_that_is_none_is_refused(tmp_path, written):
    path = save(vit_with_tap(), tmp_path / "tap.safetensors", tap_temperature=written)
    with pytest.raises(ValueError, match=r"a number above 0 as tap_temperature in tap\.safetensors"):
        load_model("test_vit", checkpoint=path)


def test_a_name_beside_a_file_of_ones_own_training_changes_nothing(tmp_path):
    path, built = trained(tmp_path, small(mean=(0.0,), std=(1.0,)))
    loaded = load_model("vit_tiny_patch16_224", checkpoint=path)
    assert loaded.preprocessing == built.preprocessing
    assert loaded.name == "vit_tiny_patch16_224"
