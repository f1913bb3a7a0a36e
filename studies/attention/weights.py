"""The weight at which each loss of diversity pulls as hard as ADL with weight 1.

    python studies/attention/weights.py

The plain model is trained as in `short`; then the gradient of each loss over its parameters is taken on the
same 500 images. Writes results/attention/weights.json, of which fashion_mnist.yaml has the weights, rounded.
"""

import json
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from plan import RESULTS, Run, load_plan
from regularisers import REGULARISERS
from study import settings_of
from tapadl import AttentionDiversificationLoss
from tapadl.tasks.classification.recipe import ClassificationRecipe
from tapadl.training.engine import train
from tapadl.training.objective import Batch
from tapadl.training.parallel import joined

BATCHES = 10


def gradient(model: nn.Module, loss: AttentionDiversificationLoss, batches: list[Batch]) -> float:
    """Length of the mean gradient of a loss over the parameters it reaches."""
    model.zero_grad()
    for images, _ in batches:
        model(images)
        (loss() / len(batches)).backward()
    loss.close()
    squares = [
        parameter.grad.square().sum() for parameter in model.parameters() if parameter.grad is not None
    ]
    return float(torch.stack(squares).sum().sqrt())


def main() -> None:
    torch.set_num_threads(1)
    plan = load_plan(Path(__file__).with_name("fashion_mnist.yaml"))
    settings = settings_of(plan, Run.of({"tap.enabled": False, "adl.enabled": False}, 0), [])
    device = torch.device("cpu")
    with joined(device), TemporaryDirectory() as folder:
        recipe = ClassificationRecipe.of(settings, device)
        outcome = train(settings, recipe.ingredients, recipe.plan, Path(folder), device, identity={})
        model = recipe.built.model
        model.load_state_dict(outcome.weights)
        batches = [batch for batch, *_ in islice(recipe.ingredients.make_batches(0), BATCHES)]
    kinds = {"ADL": AttentionDiversificationLoss} | REGULARISERS
    found = {name: gradient(model.eval(), kind(model), batches) for name, kind in kinds.items()}
    rows = {name: {"gradient": length, "weight": found["ADL"] / length} for name, length in found.items()}
    (RESULTS / "weights.json").write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
