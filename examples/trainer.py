"""Train a ViT of transformers with TAP and ADL in the Trainer as it is, save it, and load it again.

The images are the subset of Fashion-MNIST inside the package: no download. A minute on two cores.

    pip install ".[transformers]" accelerate    # in a clone
    python examples/trainer.py
"""

import tempfile

import torch
from transformers import EvalPrediction, Trainer, TrainingArguments, ViTConfig, ViTForImageClassification

import tapadl
from tapadl.data.embedded import load_embedded
from tapadl.data.fashion_mnist import LabelledImages


class RobustViTForImageClassification(ViTForImageClassification):
    """A ViT with TAP that from_pretrained can load; transformers picks the loss by the end of its name."""

    def __init__(self, config: ViTConfig) -> None:
        super().__init__(config)
        tapadl.attach_tap(self)


def examples_of(data: LabelledImages, count: int) -> list[dict[str, torch.Tensor]]:
    """The first `count` images, as a model of transformers takes them."""
    images = data.images[:count].float() / 127.5 - 1
    return [{"pixel_values": i, "labels": label} for i, label in zip(images, data.labels, strict=False)]


def accuracy(prediction: EvalPrediction) -> dict[str, float]:
    """The share of images whose highest logit is that of their class."""
    return {"accuracy": float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())}


def main(train_images: int = 10_000, test_images: int = 4_000) -> float:
    """Train for two epochs; return the accuracy of the model that was saved and loaded."""
    torch.set_num_threads(1)  # so small a model gains nothing from more
    data = load_embedded()
    train, test = examples_of(data.train, train_images), examples_of(data.test, test_images)
    torch.manual_seed(0)
    model = RobustViTForImageClassification(
        ViTConfig(
            image_size=28,
            patch_size=4,
            num_channels=1,
            hidden_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            intermediate_size=128,
            num_labels=len(data.class_names),
        )
    )
    tapadl.attach_diversification(model)  # the Trainer knows nothing of it

    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=2,
            warmup_steps=20,
            per_device_train_batch_size=50,
            per_device_eval_batch_size=500,
            learning_rate=2e-3,
            logging_steps=50,
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=train, eval_dataset=test, compute_metrics=accuracy)
        trainer.train()
        trainer.save_model()
        loaded = RobustViTForImageClassification.from_pretrained(folder)

    scores = Trainer(loaded, arguments, eval_dataset=test, compute_metrics=accuracy).evaluate()
    tapadl.describe(loaded)
    print(f"accuracy of the loaded model on {len(test):,} test images: {scores['eval_accuracy']:.1%}")
    return float(scores["eval_accuracy"])


if __name__ == "__main__":
    main()
