import pytest
import torch
import torch.nn.functional as F

from tapadl.tasks.segmentation import pixel_cross_entropy


def pictures(ignored_rows=0, dtype=torch.float64):
    logits = torch.randn(2, 5, 7, 4, dtype=dtype, requires_grad=True)
    labels = torch.randint(0, 5, (2, 7, 4))
    labels[:, :ignored_rows] = 255
    return logits, labels


def test_without_ignored_pixels_it_is_the_cross_entropy_of_torch():
    logits, labels = pictures()
    for count_ignored in (True, False):
        loss = pixel_cross_entropy(logits, labels, count_ignored=count_ignored)
        torch.testing.assert_close(loss, F.cross_entropy(logits, labels))


def test_ignored_pixels_are_zeros_of_the_mean_over_all_pixels():
    logits, labels = pictures(ignored_rows=3)
    values = F.cross_entropy(logits, labels, ignore_index=255, reduction="none")
    torch.testing.assert_close(pixel_cross_entropy(logits, labels), values.mean())


def test_the_usual_mean_is_that_of_torch():
    logits, labels = pictures(ignored_rows=3)
    loss = pixel_cross_entropy(logits, labels, count_ignored=False)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=255))
    loss = pixel_cross_entropy(logits, labels.where(labels != 255, -1), ignore_index=-1, count_ignored=False)
    torch.testing.assert_close(loss, F.cross_entropy(logits, labels, ignore_index=255))


@pytest.mark.parametrize("count_ignored", [True, False])
def test_without_any_label_loss_and_gradient_are_zero(count_ignored):
    logits, labels = pictures(ignored_rows=7)
    loss = pixel_cross_entropy(logits, labels, count_ignored=count_ignored)
    loss.backward()
    assert loss.item() == 0
    assert logits.grad.abs().max() == 0


def test_many_pixels_in_half_precision_do_not_overflow():
    logits = torch.zeros(1, 4, 256, 256, dtype=torch.float16)
    labels = torch.zeros(1, 256, 256, dtype=torch.int64)
    loss = pixel_cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(1.3862944, rel=1e-5)  # log 4


@pytest.mark.parametrize("shape", [(2, 1, 7, 4), (2, 4, 7), (2, 28), (1, 7, 4)])
def test_labels_of_another_size_are_refused(shape):
    logits, _ = pictures()
    with pytest.raises(ValueError, match=r"expected labels \(B, H, W\) .* and \(2, 5, 7, 4\)"):
        pixel_cross_entropy(logits, torch.zeros(shape, dtype=torch.int64))
