import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from PIL import Image
from torch import nn

from tapadl.corruptions import corrupt
from tapadl.data.segmentation import LabelScheme, SegmentationFiles
from tapadl.tasks.segmentation.inference import sliding_logits
from tapadl.tasks.segmentation.model import SegmenterDescription
from tapadl.tasks.segmentation.scores import Scores, _share_of
from tapadl.training.settings import EvaluationSettings, SegmentationSettings

SCHEME = LabelScheme(("a", "b", "c"), (0, 1, 2), (255,), ((255, 0, 0), (0, 255, 0), (0, 0, 255)))
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)
SIZES = ((40, 48), (33, 57), (40, 36))


@pytest.fixture(autouse=True)
def alone():
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Three scenes of different sizes; a tenth of the pixels does not count."""
    root = tmp_path_factory.mktemp("scenes")
    draws = np.random.default_rng(0)
    names = [f"{number}.png" for number in range(len(SIZES))]
    for name, size in zip(names, SIZES, strict=True):
        for folder, values in (
            ("images", draws.integers(0, 256, (*size, 3), dtype=np.uint8)),
            ("masks", draws.choice(np.array([0, 1, 2, 255], np.uint8), size, p=(0.3, 0.3, 0.3, 0.1))),
        ):
            (root / folder).mkdir(exist_ok=True)
            Image.fromarray(values).save(root / folder / name)
    images, masks = ([f"{folder}/{name}" for name in names] for folder in ("images", "masks"))
    return SegmentationFiles(root, tuple(images), tuple(masks), SCHEME)


@pytest.fixture
def model():
    return nn.Sequential(nn.Conv2d(3, 3, 5, padding=2), nn.AvgPool2d(2)).eval()


def scores(files, workers=0, on_shown=None, evaluation=None, **segmentation):
    return Scores(
        files,
        EvaluationSettings(**(evaluation or {})),
        SegmentationSettings(**segmentation),
        SegmenterDescription("x", SCHEME, MEAN, STD),
        num_workers=workers,
        device=torch.device("cpu"),
        on_shown=on_shown,
    )


def logits_by_hand(model, images):
    return F.interpolate(model(images), size=images.shape[2:], mode="bilinear", align_corners=False)


def miou_by_hand(files, answer, corruption=None, severity=None, image_size=None):
    """Intersection over union from the sets of pixels of all scenes together."""
    found, wanted = [], []
    for place in range(len(files)):
        pixels = torch.from_numpy(np.array(files.image(place))).permute(2, 0, 1)[None] / 255
        if corruption is not None:
            indices = torch.tensor([files.positions[place]])
            pixels = corrupt(pixels, corruption, severity, seed=0, indices=indices, image_size=image_size)
            pixels = (pixels * 255).round() / 255
        mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
        found.append(answer((pixels - mean) / std).argmax(1).flatten())
        wanted.append(torch.from_numpy(np.array(Image.open(files.root / files.masks[place]))).flatten())
    found, wanted = torch.cat(found)[(kept := torch.cat(wanted) != 255)], torch.cat(wanted)[kept]
    shares = [((found == c) & (wanted == c)).sum() / ((found == c) | (wanted == c)).sum() for c in range(3)]
    return (sum(shares) / 3).item()


@torch.no_grad()
def test_scores_are_those_of_a_loop_by_hand(files, model):
    evaluation = {"corruptions": ("contrast", "fog"), "severities": (1, 4), "images": 2}
    found = scores(files, evaluation=evaluation)(model)
    answer = lambda images: logits_by_hand(model, images)  # noqa: E731
    of_corruption = {
        name: sum(miou_by_hand(files.subset(2), answer, name, severity) for severity in (1, 4)) / 2
        for name in ("contrast", "fog")
    }
    assert list(found) == ["miou", "corrupted_miou", "contrast_miou", "fog_miou"]
    assert found["miou"] == pytest.approx(miou_by_hand(files, answer), abs=1e-6)
    for name, value in of_corruption.items():
        assert found[f"{name}_miou"] == pytest.approx(value, abs=1e-6)
    assert found["corrupted_miou"] == pytest.approx(sum(of_corruption.values()) / 2, abs=1e-6)


@torch.no_grad()
def test_street_scenes_keep_the_constants_of_224_pixels(files, model):
    evaluation = {"corruptions": ("defocus_blur",), "severities": (2,)}
    answer = lambda images: logits_by_hand(model, images)  # noqa: E731
    for dataset, size in (("cityscapes", 224), ("folder", None)):
        found = scores(files, evaluation=evaluation, dataset=dataset)(model)
        by_hand = miou_by_hand(files, answer, "defocus_blur", 2, size)
        assert found["defocus_blur_miou"] == pytest.approx(by_hand, abs=1e-6)


@torch.no_grad()
def test_windows_are_averaged_where_they_overlap(files, model):
    whole = scores(files)(model)
    by_windows = scores(files, window=(16, 24), stride=(8, 20))(model)
    expected = miou_by_hand(files, lambda images: sliding_logits(model, images, (16, 24), (8, 20)))
    assert by_windows["miou"] == pytest.approx(expected, abs=1e-6)
    assert by_windows != whole
    apart = scores(files, window=(16, 24))(model)
    expected = miou_by_hand(files, lambda images: sliding_logits(model, images, (16, 24), (16, 24)))
    assert apart["miou"] == pytest.approx(expected, abs=1e-6)


def test_workers_change_nothing_and_it_says_how_far_it_is(files, model):
    told = []
    evaluation = {"corruptions": ("gaussian_noise",), "severities": (1, 2), "images": 2}
    expected = scores(files, evaluation=evaluation, on_shown=lambda *n: told.append(n))(model)
    assert scores(files, workers=1, evaluation=evaluation)(model) == expected
    assert told == [(done, 3 + 2 * 2) for done in range(1, 8)]


def test_every_process_shows_as_many_scenes_and_each_counts_once(files, monkeypatch):
    places = scores(files, evaluation={"corruptions": ("fog",)})._places()[:5]
    works, counted = [], []
    for rank in range(3):
        monkeypatch.setattr(dist, "get_rank", lambda rank=rank: rank)
        monkeypatch.setattr(dist, "get_world_size", lambda: 3)
        work, own = _share_of(places)
        works.append(len(work))
        counted += work[:own]
    assert works == [2, 2, 2]
    assert sorted((index, cell.key) for _, index, cell in counted) == sorted(
        (index, cell.key) for _, index, cell in places
    )


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_scene_is_named(files, model, tmp_path, workers):
    for folder in ("images", "masks"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "0.png").write_bytes((files.root / folder / "0.png").read_bytes())
    (tmp_path / "images" / "0.png").write_bytes(b"no picture")
    damaged = SegmentationFiles(tmp_path, ("images/0.png",), ("masks/0.png",), SCHEME)
    with pytest.raises(OSError, match=r"^expected .*images/0\.png"):
        scores(damaged, workers=workers)(model)
