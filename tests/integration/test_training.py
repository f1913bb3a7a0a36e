"""Real training loops, each run twice: with the loss added by hand and with the loss attached."""

import copy

import pytest
import torch
import torch.nn.functional as F
from timm.data import create_loader
from timm.optim import create_optimizer_v2
from timm.scheduler import create_scheduler_v2
from timm.utils import ModelEmaV3, NativeScaler
from torch.utils.checkpoint import checkpoint

import tapadl


def weights_of(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def assert_same(mine, theirs):
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def steps_with_a_scaler(model, images, labels, dtype, weight, attached):
    """Two optimizer steps of two micro-batches each, under autocast with a scaled loss."""
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    if attached:
        tapadl.attach_diversification(model, weight, loss_scale=lambda: scaler.get_scale() / 2)
    else:
        diversification = tapadl.AttentionDiversificationLoss(model)
    for _ in range(2):
        for half in (slice(0, 2), slice(2, 4)):
            with torch.autocast("cpu", dtype=dtype):
                loss = F.cross_entropy(model(images[half]), labels[half])
                if not attached:
                    loss = loss + weight * diversification()
            scaler.scale(loss / 2).backward()
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
    assert scaler.get_scale() > 1024.0  # no step was skipped
    return weights_of(model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast_with_a_scaled_loss_and_accumulation(model, images, labels, dtype):
    runs = {
        (weight, attached): steps_with_a_scaler(copy.deepcopy(model), images, labels, dtype, weight, attached)
        for weight, attached in [(0.0, False), (1.0, False), (1.0, True)]
    }
    assert_same(runs[1.0, True], runs[1.0, False])
    assert all(tensor.isfinite().all() for tensor in runs[1.0, True].values())
    name = "blocks.1.attn.qkv.weight"
    assert not torch.equal(runs[1.0, True][name], runs[0.0, False][name])


class Pictures(torch.utils.data.Dataset):
    """Eight noisy pictures, in the form timm's loader asks for."""

    def __init__(self):
        self.transform = None
        generator = torch.Generator().manual_seed(1)
        self.pictures = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return self.pictures[index].float() / 255, index % 5


def loop_of_timm(model, attached):
    """A plain loop of timm's public parts; the lines of the loss are all that ADL adds to it."""
    loader = create_loader(
        Pictures(),
        (3, 32, 32),
        batch_size=4,
        is_training=True,
        no_aug=True,
        use_prefetcher=False,
        num_workers=0,
    )
    optimizer = create_optimizer_v2(model, opt="adamw", lr=1e-2, weight_decay=0.05)
    scheduler, epochs = create_scheduler_v2(optimizer, sched="cosine", num_epochs=2, cooldown_epochs=0)
    ema = ModelEmaV3(model, decay=0.5)
    scaler = NativeScaler(device="cpu")
    if attached:
        tapadl.attach_diversification(model, loss_scale=lambda: scaler.state_dict()["scale"])
    else:
        diversification = tapadl.AttentionDiversificationLoss(model)
    torch.manual_seed(0)
    for epoch in range(epochs):
        model.train()
        for step, (images, labels) in enumerate(loader):
            with torch.autocast("cpu", dtype=torch.float16):
                loss = F.cross_entropy(model(images.clone()), labels)
                if not attached:
                    loss = loss + diversification()
            scaler(loss, optimizer, clip_grad=1.0, parameters=model.parameters())
            optimizer.zero_grad()
            ema.update(model, step=epoch * len(loader) + step)
        scheduler.step(epoch + 1)
    with torch.no_grad():
        assert ema(Pictures()[0][0][None]).isfinite().all()
    return weights_of(model), weights_of(ema.module)


def test_loop_of_timms_public_parts_trains_as_with_the_loss_by_hand(model):
    start = weights_of(model)
    (attached, attached_ema), (by_hand, by_hand_ema) = (
        loop_of_timm(copy.deepcopy(model), attached) for attached in (True, False)
    )
    assert_same(attached, by_hand)
    assert_same(attached_ema, by_hand_ema)
    assert "blocks.0.tap.dilation_predictor.proj.0.weight" in attached_ema
    assert not torch.equal(attached["blocks.0.attn.qkv.weight"], start["blocks.0.attn.qkv.weight"])


@pytest.mark.parametrize("attached", [False, True])
def test_the_copy_of_an_average_of_weights_has_tap_and_does_not_listen(model, images, attached):
    if attached:
        tapadl.attach_diversification(model)
    else:
        diversification = tapadl.AttentionDiversificationLoss(model)
    ema = ModelEmaV3(model)
    plain = tapadl.detach_tap(copy.deepcopy(ema.module))
    ema.module.train().requires_grad_(True)
    ema.module(images).square().mean().backward()  # with a loss attached, its gradient would be in here
    got = ema.module.blocks[0].attn.qkv.weight.grad.clone()
    other = copy.deepcopy(tapadl.detach_diversification(model)).train()
    other(images).square().mean().backward()
    assert torch.equal(got, other.blocks[0].attn.qkv.weight.grad)
    assert not torch.equal(plain(images), ema.module(images))
    if not attached:
        with pytest.raises(RuntimeError, match="got none"):
            diversification()


@pytest.mark.parametrize("attached", [False, True])
def test_reentrant_checkpointing_is_refused_with_what_to_use(model, images, attached):
    for block in model.blocks:
        block.forward = lambda x, original=block.forward, **_: checkpoint(original, x, use_reentrant=True)
    if attached:
        tapadl.attach_diversification(model)
        with pytest.raises(RuntimeError, match="inside reentrant gradient checkpointing, is not heard"):
            model(images)
    else:
        diversification = tapadl.AttentionDiversificationLoss(model)
        model(images)
        with pytest.raises(RuntimeError, match="use use_reentrant=False"):
            diversification()


def test_accumulated_gradients_of_the_loss_are_those_of_the_joint_batch(model, images, labels):
    model = model.double().eval()  # statistics of half a batch are not those of the whole
    images = images.double()
    with tapadl.AttentionDiversificationLoss(model) as diversification:
        (F.cross_entropy(model(images), labels) + diversification()).backward()
        joint = [p.grad.clone() for p in model.parameters()]
        model.zero_grad()
        for half in (slice(0, 2), slice(2, 4)):
            ((F.cross_entropy(model(images[half]), labels[half]) + diversification()) / 2).backward()
    for parameter, gradient in zip(model.parameters(), joint, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-8, atol=1e-12)
