import pytest
import torch
from torch import nn

from tapadl.data.segmentation import LabelScheme
from tapadl.tasks.segmentation.inference import sliding_logits
from tapadl.tasks.segmentation.model import LoadedSegmenter, SegmenterDescription
from tapadl.tasks.segmentation.prediction import PredictionSettings, Predictor

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
SCHEME = LabelScheme(("a", "b", "c", "d"), (0, 1, 2, 3), (), ((0, 0, 0),) * 4)
IMAGE = torch.randint(0, 256, (3, 37, 50), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    # sees to the left and below, so that mirror images differ
    convolution = nn.Conv2d(3, 4, kernel_size=5, padding=2, stride=2)
    convolution.weight.data[..., 3:] = 0
    return convolution.eval()


def predict(model, **settings):
    segmenter = LoadedSegmenter("toy", model, SegmenterDescription("toy", SCHEME, MEAN, STD), "")
    return Predictor(segmenter, PredictionSettings(**settings), torch.device("cpu")).classes(IMAGE)


def normalised():
    mean, std = (torch.tensor(values)[:, None, None] for values in (MEAN, STD))
    return ((IMAGE / 255 - mean) / std)[None]


def enlarged(logits, size=(37, 50)):
    return nn.functional.interpolate(logits, size=size, mode="bilinear", align_corners=False)


def test_whole_picture_is_normalised_and_its_logits_enlarged(model):
    expected = enlarged(model(normalised())).argmax(dim=1)[0]
    assert torch.equal(predict(model), expected)
    assert len(expected.unique()) > 1


def test_windows_are_those_of_sliding_logits(model):
    expected = sliding_logits(model, normalised(), (16, 16), (12, 12)).argmax(dim=1)[0]
    assert torch.equal(predict(model, window=16), expected)
    other = sliding_logits(model, normalised(), (16, 16), (5, 5)).argmax(dim=1)[0]
    assert torch.equal(predict(model, window=16, stride=5), other)
    assert not torch.equal(expected, other)


def test_probabilities_of_mirror_images_and_scales_are_averaged(model):
    total = 0
    for scale in (0.5, 1.0):
        for flip in (False, True):
            size = (round(37 * scale), round(50 * scale))
            view = nn.functional.interpolate(
                normalised(), size=size, mode="bilinear", align_corners=False, antialias=True
            )
            view = view.flip(3) if flip else view
            logits = enlarged(model(view), size)
            total = total + enlarged(logits.flip(3) if flip else logits).softmax(dim=1)
    found = predict(model, flip=True, scales=(0.5, 1.0))
    assert (found == total.argmax(dim=1)[0]).float().mean() > 0.999
    assert not torch.equal(found, predict(model))


def test_lower_precision_is_a_little_different(model):
    assert 0.9 < (predict(model, precision="bfloat16") == predict(model)).float().mean() <= 1


class Answer(nn.Module):
    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, images):
        return self.answer(images)


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        (lambda x: torch.zeros(1, 7, 9, 9), ValueError, "it knows 4 classes, got .*7"),
        (lambda x: [x], ValueError, "4 classes, got list"),
        (lambda x: x.view(1, -1), ValueError, "it knows 4 classes"),
        (lambda x: torch.zeros(3, 4) @ x, ValueError, r"toy fails on 37 x 50 pixels \(height x width\)"),
        (lambda x: x[:0, :1].expand(0, 4, -1, -1), ValueError, r"expected logits \(1, 4, height, width\)"),
        (lambda x: torch.zeros(1, 4, 0, 3), ValueError, r"got \(1, 4, 0, 3\)"),
        (lambda x: 1 // 0, ValueError, r"toy fails on 37 x 50 pixels"),
        (lambda x: {}["logits"], ValueError, r"toy fails on 37 x 50 pixels"),
        (lambda x: torch.full((1, 4, 5, 5), torch.nan), RuntimeError, "expected finite logits of toy"),
        (lambda x: torch.full((1, 4, 5, 5), torch.inf), RuntimeError, "expected finite logits of toy"),
    ],
)
@pytest.mark.parametrize("flip", [False, True])
def test_answers_that_make_no_sense_are_one_sentence(answer, error, message, flip):
    with pytest.raises(error, match=message):
        predict(Answer(answer), flip=flip)


def test_a_class_that_is_ruled_out_is_none():
    logits = torch.tensor([-torch.inf, 0.0, 1.0, -1.0])[None, :, None, None].expand(1, 4, 37, 50)
    for flip in (False, True):
        assert predict(Answer(lambda x: logits), flip=flip).unique().tolist() == [2]


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ((0.5,), STD, "expected three numbers as mean, got"),
        (("a", "b", "c"), STD, "expected three numbers as mean"),
        (MEAN, (0.1, 0.0, 0.1), "expected three numbers, above 0, as std"),
        (MEAN, (0.1, float("nan"), 0.1), "expected three numbers, above 0, as std"),
    ],
)
def test_a_description_normalises_three_channels(mean, std, message):
    with pytest.raises(ValueError, match=message):
        SegmenterDescription("toy", SCHEME, mean, std)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"stride": 5}, "a window for the stride 5"),
        ({"window": 8, "stride": 9}, "a stride from 1 to it, got 8 and 9"),
        ({"window": 0}, "a window of at least 1"),
        ({"scales": ()}, "scales from 0.1"),
        ({"scales": (0.01,)}, "scales from 0.1"),
        ({"scales": (float("nan"),)}, "scales from 0.1"),
        ({"scales": (1.0, 1.0)}, "each scale once"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        PredictionSettings(**settings)
