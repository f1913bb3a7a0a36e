"""Give TAP and ADL to a model that is trained already, and see what fine-tuning with them changes.

A small plain ViT of timm is trained first and stands for a pretrained one. TAP then goes in with
init="identity", which leaves the output as it is, and grows in while training goes on with ADL. The same
training without both is the comparison. The images are the subset of Fashion-MNIST inside the package: no
download. Two minutes on two cores.

    pip install .    # in a clone
    python examples/finetune.py
"""

import argparse
import copy
import time
from collections.abc import Sequence

import timm
import torch
from timm.models import VisionTransformer

import tapadl
from tapadl.data.embedded import load_embedded
from tapadl.demo.cells import CorruptedImages, benchmark_cells, evaluate_cells
from tapadl.demo.result import CellResult
from tapadl.demo.settings import DEMO_CORRUPTIONS
from tapadl.tasks.classification import Normalisation, count_errors, train_classifier
from tapadl.training.config import TrainingConfig
from tapadl.training.loop import Step


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The settings of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--pretrain-steps", type=int, default=800, help="steps of the plain model (800)")
    parser.add_argument("--finetune-steps", type=int, default=500, help="steps of fine-tuning (500)")
    parser.add_argument("--images", type=int, default=1000, help="test images, at most 4000 (1000)")
    parser.add_argument("--corruptions", nargs="+", default=DEMO_CORRUPTIONS, metavar="NAME")
    parser.add_argument("--severities", nargs="+", type=int, default=[1, 3, 5], metavar="1..5")
    parser.add_argument("--seed", type=int, default=0, help="of weights, order and augmentation (0)")
    parser.add_argument("--threads", type=int, default=1, help="of torch; a small model gains little (1)")
    return parser.parse_args(arguments)


def make_model(num_classes: int) -> VisionTransformer:
    """A plain ViT: 28 x 28 pixels in patches of 4."""
    model: VisionTransformer = timm.create_model(
        "vit_tiny_patch16_224",
        img_size=28,
        patch_size=4,
        in_chans=1,
        embed_dim=64,
        depth=4,
        num_heads=4,
        mlp_ratio=2,
        class_token=False,
        global_pool="avg",
        num_classes=num_classes,
    )
    return model


def gates_of(model: VisionTransformer) -> list[torch.Tensor]:
    """How far TAP has grown in, (dim,), for every block; zero at the start."""
    return [parameter.detach() for name, parameter in model.named_parameters() if name.endswith("tap.gate")]


def print_tenths(step: Step) -> None:
    """One line every tenth of a training."""
    if step.step % max(step.total_steps // 10, 1) == 0:
        print(f"  step {step.step:4} of {step.total_steps}: loss {step.loss:.3f}", flush=True)


def main(arguments: Sequence[str] | None = None) -> dict[str, tuple[CellResult, ...]]:
    """Train, attach, fine-tune, compare; every model's errors on clean and corrupted images."""
    options = parse(arguments)
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    started = time.perf_counter()
    data = load_embedded()
    normalise = Normalisation.of(data.train.images)
    images, labels = data.test.images[: options.images], data.test.labels[: options.images]

    def train(what: str, model: VisionTransformer, steps: int, learning_rate: float, adl: bool) -> None:
        print(what)
        config = TrainingConfig(steps=steps, learning_rate=learning_rate, seed=options.seed)
        train_classifier(model, data.train, config, normalise=normalise, diversify=adl, on_step=print_tenths)

    pretrained = make_model(len(data.class_names))
    train("Pretraining, plain", pretrained, options.pretrain_steps, 3e-3, adl=False)

    model = tapadl.attach_tap(copy.deepcopy(pretrained), init="identity")
    with torch.inference_mode():
        before, after = (m.eval()(normalise(images[:100] / 255)) for m in (pretrained, model))
    if not torch.equal(before, after):
        raise RuntimeError("expected TAP to leave the output as it was, got another")
    print(f"TAP attached in front of {len(gates_of(model))} attentions: the output is the same, bit for bit")

    plain = copy.deepcopy(pretrained)
    train("Fine-tuning, plain", plain, options.finetune_steps, 2e-3, adl=False)
    train("Fine-tuning, TAP + ADL", model, options.finetune_steps, 2e-3, adl=True)
    sizes = ", ".join(f"{gate.abs().mean():.3f}" for gate in gates_of(model))
    print(f"Mean size of the gates of TAP, zero before: {sizes}")

    print("Evaluating")
    results = evaluate_cells(
        {"pretrained": pretrained, "fine-tuned, plain": plain, "fine-tuned, TAP + ADL": model},
        CorruptedImages(images, seed=0),
        labels,
        benchmark_cells(options.corruptions, options.severities),
        count_errors=lambda *asked: count_errors(*asked, normalise=normalise),
    )
    print(f"\n{'error in percent':24}{'clean':>8}{'corrupted':>12}")
    for name, (clean, *corrupted) in results.items():
        mean = sum(cell.error for cell in corrupted) / len(corrupted)
        print(f"{name:24}{100 * clean.error:8.1f}{100 * mean:12.1f}")
    print(f"\n{len(labels)} test images, {len(corrupted)} conditions; {time.perf_counter() - started:.0f} s")
    return results


if __name__ == "__main__":
    main()
