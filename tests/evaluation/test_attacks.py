import logging
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from tapadl.evaluation.attacks import autoattack, fgsm, pgd

NORMS = ("linf", "l2")
EPS = {"linf": 8 / 255, "l2": 0.5}
INNER = torch.rand(6, 3, 5, 7, generator=torch.Generator().manual_seed(1)) * 0.5 + 0.25  # a ball fits around
OUTER = torch.randint(0, 2, (6, 3, 5, 7), generator=torch.Generator().manual_seed(2)).float()  # corners
LABELS = torch.tensor([0, 1, 0, 1, 1, 0])


def binary(images: torch.Tensor) -> torch.Tensor:
    """Logits (s, -s) of s = w.x: the loss of label 0 falls with s, that of label 1 grows."""
    score = images.flatten(1) @ direction()
    return torch.stack([score, -score], dim=1)


def direction() -> torch.Tensor:
    return torch.randn(105, generator=torch.Generator().manual_seed(3))


def away(labels: torch.Tensor) -> torch.Tensor:
    """The direction that is worst for each label, (B, 3, 5, 7)."""
    return torch.where(labels[:, None] == 0, -direction(), direction()).view(-1, 3, 5, 7)


def network(num_classes: int = 10) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.GELU(), nn.Flatten(), nn.Linear(8 * 3 * 5, num_classes)]
    return nn.Sequential(*layers).eval()


def lengths(difference: torch.Tensor, norm: str) -> torch.Tensor:
    flat = difference.double().flatten(1)
    return flat.abs().amax(1) if norm == "linf" else flat.norm(dim=1)


def assert_inside(attacked: torch.Tensor, images: torch.Tensor, norm: str, eps: float) -> None:
    """Without a tolerance."""
    assert attacked.dtype == torch.float32
    assert attacked.min() >= 0
    assert attacked.max() <= 1
    assert (lengths(attacked.double() - images.double(), norm) <= eps).all()


def losses(model, images, labels) -> torch.Tensor:
    with torch.no_grad():
        return F.cross_entropy(model(images), labels, reduction="none")


ATTACKS = {
    "fgsm": fgsm,
    "pgd": lambda *a, **k: pgd(*a, steps=7, **k),
    "pgd without start": lambda *a, **k: pgd(*a, steps=7, random_start=False, **k),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attack_of_a_linear_model_is_the_closed_form_for_linf(name):
    attacked = ATTACKS[name](binary, INNER, LABELS, eps=8 / 255)
    torch.testing.assert_close(attacked, INNER + 8 / 255 * away(LABELS).sign(), rtol=0, atol=1e-7)


def test_fgsm_of_a_linear_model_is_the_closed_form_for_l2():
    attacked = fgsm(binary, INNER, LABELS, eps=0.5, norm="l2")
    expected = INNER + 0.5 * away(LABELS) / direction().norm()
    torch.testing.assert_close(attacked, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_of_a_linear_model_converges_to_the_closed_form_for_l2(random_start):
    attacked = pgd(
        binary, INNER, LABELS, eps=0.5, norm="l2", steps=60, step_size=0.5, random_start=random_start
    )
    expected = INNER + 0.5 * away(LABELS) / direction().norm()
    # at its maximum on the sphere the loss is flat: 1e-7 of it is 3e-4 of the way
    torch.testing.assert_close(attacked, expected, rtol=0, atol=0.5 * 3e-4)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("name", ATTACKS)
@pytest.mark.parametrize("images", [INNER, OUTER, torch.rand(6, 3, 5, 7)], ids=["inner", "corners", "any"])
def test_ball_and_range_are_respected_exactly(norm, name, images):
    for eps in (0, 1e-9, 1 / 255, 0.0314159, 0.5, 3):
        attacked = ATTACKS[name](network(), images, LABELS, eps=eps, norm=norm)
        assert_inside(attacked, images, norm, eps)
        if eps == 0:
            assert torch.equal(attacked, images)


def test_linf_attack_uses_the_whole_ball_and_stops_at_the_range():
    attacked = fgsm(binary, OUTER, LABELS, eps=0.125)
    expected = (OUTER + 0.125 * away(LABELS).sign()).clamp(0, 1)
    assert torch.equal(attacked, expected)


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_is_not_weaker_than_fgsm_nor_fgsm_than_nothing(norm):
    smooth = network()

    def model(images):  # bends within the ball, so that one long step misses
        return smooth(0.5 + 0.1 * torch.sin(80 * images)) * 10

    images = torch.rand(200, 3, 5, 7)
    with torch.no_grad():
        labels = model(images).argmax(1)
    attacked = [attack(model, images, labels, eps=EPS[norm] / 2, norm=norm) for attack in (fgsm, pgd)]
    clean, one, many = (losses(model, x, labels).mean() for x in (images, *attacked))
    assert clean + 0.1 < one < many - 0.01
    wrong = [(model(x).argmax(1) != labels).sum() for x in attacked]
    assert 100 < wrong[0] <= wrong[1]


def test_pgd_keeps_the_best_image_on_its_way():
    """Every step leads down here, and the image itself is the first candidate."""

    def valley(images):  # most wrong in the middle, at the image itself
        score = 5 - (images - INNER[:1]).square().sum((1, 2, 3)) * 100
        return torch.stack([-score, score], dim=1)

    attacked = pgd(valley, INNER[:1] + 0, torch.tensor([0]), eps=0.2, steps=3, random_start=False)
    assert torch.equal(attacked, INNER[:1])


def test_pgd_prefers_a_wrong_answer_to_a_larger_loss():
    def logits(images):
        x = images[:, 0, 0, 0]
        right = torch.stack([x * 0 + 3, 2.99 - 0 * x, 2.99 - 0 * x], dim=1)  # loss 1.1 and classified right
        wrong = torch.stack([x * 0, x * 0 + 0.2, x * 0 - 9], dim=1)  # loss 0.8 and classified wrong
        return torch.where((x > 0.55)[:, None], wrong, right) + x[:, None] * torch.tensor([-1.0, 0.1, 0.0])

    image = torch.full((1, 1, 1, 1), 0.6)
    before = losses(logits, image, torch.tensor([0]))
    assert before < losses(logits, image - 0.1, torch.tensor([0]))
    attacked = pgd(logits, image, torch.tensor([0]), eps=0.2, steps=5, step_size=0.1)
    assert logits(attacked).argmax() == 1


@pytest.mark.parametrize("norm", NORMS)
def test_pgd_starts_depend_on_the_index_and_not_on_the_batch(norm):
    def constant(images):  # no gradient, so the start stays
        return images.flatten(1)[:, :2] * 0

    options = {"eps": 0.1, "norm": norm, "steps": 1, "seed": 5}
    images, labels = INNER[:1].expand(4, -1, -1, -1), torch.zeros(4, dtype=torch.int64)
    together = pgd(constant, images, labels, indices=[3, 9, 4, 10], **options)
    alone = pgd(constant, images[:1], labels[:1], indices=[4], **options)
    assert torch.equal(together[2], alone[0])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(
        together, pgd(constant, images, labels, indices=[3, 9, 4, 10], **options | {"seed": 6})
    )
    assert torch.equal(alone, pgd(constant, images[:1], labels[:1], indices=torch.tensor([4]), **options))


def test_random_starts_fill_the_ball_uniformly():
    def constant(images):
        return images.flatten(1)[:, :2] * 0

    images, labels = torch.full((4000, 1, 1, 2), 0.5), torch.zeros(4000, dtype=torch.int64)
    starts = pgd(constant, images, labels, eps=0.4, norm="l2", steps=1) - 0.5
    radius = starts.flatten(1).norm(dim=1)
    # half of the area lies inside 0.4 / sqrt(2); four standard errors
    assert abs((radius < 0.4 / 2**0.5).float().mean() - 0.5) < 4 * 0.5 / 4000**0.5
    assert starts.mean().abs() < 4 * 0.2 / 8000**0.5
    starts = pgd(constant, images, labels, eps=0.4, norm="linf", steps=1) - 0.5
    assert abs(starts.var() - 0.8**2 / 12) < 0.004


@pytest.mark.parametrize("norm", NORMS)
def test_result_of_an_image_does_not_depend_on_the_batch(norm):
    model = network()
    for attack in (fgsm, lambda *a, **k: pgd(*a, steps=3, **k)):
        together = attack(model, INNER, LABELS, eps=0.1, norm=norm)
        options = {} if attack is fgsm else {"indices": [4]}
        alone = attack(model, INNER[4:5], LABELS[4:5], eps=0.1, norm=norm, **options)
        torch.testing.assert_close(alone[0], together[4], rtol=0, atol=1e-5)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_parameters_and_images_collect_no_gradients_in_any_mode(mode):
    model = network()
    with mode():
        images = INNER.clone()
        attacked = [
            attack(model, images, LABELS, eps=0.1, norm=norm) for attack in ATTACKS.values() for norm in NORMS
        ]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(not x.requires_grad and not torch.equal(x, INNER) for x in attacked)
    assert torch.equal(images, INNER)


def test_attacks_see_only_the_outputs_that_are_given():
    """The other outputs, restricted away, cannot change the result."""
    model, others = network(), network()
    with torch.no_grad():
        others[-1].weight[5:] *= -3
    subset = torch.tensor([4, 0, 2])

    def restricted(network):
        return lambda images: network(images)[:, subset]

    first, second = (pgd(restricted(m), INNER, LABELS, eps=0.1, steps=3) for m in (model, others))
    assert torch.equal(first, second)
    assert not torch.equal(first, pgd(model, INNER, subset[LABELS], eps=0.1, steps=3))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": INNER.double()}, r"images \(B, C, H, W\) of float32, got .* torch.float64"),
        ({"images": INNER[0], "labels": LABELS[:3]}, r"images \(B, C, H, W\) of float32, got \(3, 5, 7\)"),
        ({"images": INNER * 255}, r"images in 0\.\.1, before normalisation"),
        ({"images": INNER * float("nan")}, r"images in 0\.\.1"),
        ({"labels": LABELS[:3]}, r"one int64 label for each of 6 images, got \(3,\)"),
        ({"labels": LABELS.float()}, r"one int64 label for each"),
        ({"labels": LABELS + 1}, r"labels from 0 to 1"),
        ({"labels": LABELS - 1}, r"labels from 0 to 1"),
        ({"eps": -0.1}, r"eps of 0 or above, .* got -0.1"),
        ({"eps": float("nan")}, r"eps of 0 or above"),
        ({"norm": "l1"}, r"norm linf or l2, got 'l1'"),
        ({"model": lambda x: binary(x) / 0}, r"finite logits"),
        ({"model": lambda x: x}, r"logits \(6, classes\), got \(6, 3, 5, 7\)"),
        ({"model": network().train()}, r"evaluation mode, got one in training"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(changed, message):
    options = {"model": binary, "images": INNER, "labels": LABELS, "eps": 0.1, "norm": "linf"} | changed
    with pytest.raises(ValueError, match=message):
        fgsm(**options)
    with pytest.raises(ValueError, match=message):
        pgd(**options)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"steps": 0}, r"steps from 1 and a step_size from 0, got 0"),
        ({"step_size": -1.0}, r"steps from 1 and a step_size from 0, got 20 and -1.0"),
        ({"indices": [1, 2]}, r"one index for each of 6 images, got 2"),
    ],
)
def test_steps_and_indices_that_make_no_sense_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        pgd(binary, INNER, LABELS, eps=0.1, **changed)


# AutoAttack: minutes where an image withstands, so eps is such that most fall


def test_autoattack_without_its_extra_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyautoattack", None)
    with pytest.raises(ValueError, match=r"pip install 'tapadl\[adversarial\]'"):
        autoattack(binary, INNER, LABELS, eps=0.1)


@pytest.fixture
def classified():
    """Images, their predicted labels, and the model."""
    pytest.importorskip("pyautoattack")
    model = network()
    images = torch.rand(12, 3, 5, 7, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        return model, images, model(images).argmax(1)


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "eps"), [("linf", 0.025), ("l2", 0.4)])
def test_autoattack_is_not_weaker_than_pgd_and_stays_inside(classified, norm, eps):
    model, images, labels = classified
    weaker = pgd(model, images, labels, eps=eps, norm=norm)
    state = torch.get_rng_state()
    attacked = autoattack(model, images, labels, eps=eps, norm=norm, batch_size=12)
    assert torch.equal(torch.get_rng_state(), state)
    assert_inside(attacked, images, norm, eps)
    wrong = [(model(x).argmax(1) != labels).sum() for x in (weaker, attacked)]
    assert 0 < wrong[0] <= wrong[1]
    assert norm == "l2" or wrong[1] < 12  # some withstand, so every part of it has run
    assert torch.equal(
        attacked[model(attacked).argmax(1) == labels], images[model(attacked).argmax(1) == labels]
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_autoattack_of_an_image_depends_on_nothing_but_its_index(classified):
    model, images, labels = classified
    options = {"eps": 0.5, "norm": "l2", "seed": 2}
    together = autoattack(model, images[:3], labels[:3], indices=[7, 8, 9], **options)
    alone = autoattack(model, images[1:2], labels[1:2], indices=[8], **options)
    other = autoattack(model, images[1:2], labels[1:2], indices=[9], **options)
    assert torch.equal(together[1], alone[0])
    assert not torch.equal(alone, other)


def test_autoattack_leaves_wrong_images_the_tracer_and_the_logger_alone(classified):
    model, images, labels = classified
    tracer, logger = sys.gettrace(), logging.getLogger("auto-attack")
    assert torch.equal(autoattack(model, images, (labels + 1) % 10, eps=0.3), images)
    assert sys.gettrace() is tracer
    assert logger.handlers == []
    assert logger.propagate


def test_autoattack_tries_no_more_targets_than_there_are(classified):
    _, images, _ = classified
    model = network(num_classes=4)
    labels = model(images[:2]).argmax(1)
    attacked = autoattack(model, images[:2], labels, eps=0.5, batch_size=2)
    assert (model(attacked).argmax(1) != labels).all()


def test_autoattack_refuses_what_it_cannot_judge(classified):
    model, images, labels = classified

    def noisy(x):
        return model(x) + torch.randn(len(x), 10)

    with pytest.raises(ValueError, match=r"the same logits for the same images"):
        autoattack(noisy, images[:2], labels[:2], eps=0.1)
    with pytest.raises(ValueError, match=r"at least 4 classes, .* got 2"):
        autoattack(binary, INNER, LABELS, eps=0.1)
    with pytest.raises(ValueError, match=r"batch_size from 1 and eps above 0, got 1 and 0"):
        autoattack(model, images, labels, eps=0)
    with pytest.warns(
        UserWarning, match=r"AutoAttack: it seems that the output is a probability distribution"
    ):
        autoattack(lambda x: model(x).softmax(1), images[:1], labels[:1], eps=0.5)
