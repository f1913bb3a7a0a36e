"""A training step with TAP and ADL attached, against the plain step of the same model.

    OMP_NUM_THREADS=1 python benchmarks/attach.py            write results/attach.json
    OMP_NUM_THREADS=1 python benchmarks/attach.py --quick    one small model, a check that this runs

A step is forward, loss (cross entropy, plus ADL) and backward; no optimizer. Plain and other steps alternate.
"exact" is the default: every layer, every query. The two cheaper forms are a quarter of the queries and every
second layer; the cosine is that of their gradient by all parameters to the exact one of ADL alone, mean and
least over draws. Query and key weights are scaled up, so that attention is focused as in a trained model and
the loss has a gradient.
"""

import argparse
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
import torch.nn.functional as F
from torch import nn

import tapadl
from measure import Step, as_row, compare, environment, write_results

RESULTS = Path(__file__).parent / "results" / "attach.json"
QUERY_FRACTION = 0.25
DRAWS = 5


class Case(NamedTuple):
    """A model of timm, its images, and how many pairs are timed."""

    model: str
    image_size: int
    batch: int
    pairs: int


CASES = [
    Case("vit_tiny_patch16_224", 224, 16, 15),
    Case("vit_small_patch16_224", 224, 8, 15),
    Case("vit_small_patch16_224", 448, 2, 9),
]
QUICK_CASES = [Case("test_vit", 160, 2, 2)]


class Variant(NamedTuple):
    """What is attached."""

    tap: bool = False
    adl: bool = False
    query_fraction: float = 1.0
    every: int = 1


VARIANTS = {
    "TAP": Variant(tap=True),
    "ADL": Variant(adl=True),
    "TAP + ADL": Variant(tap=True, adl=True),
    "ADL, a quarter of the queries": Variant(adl=True, query_fraction=QUERY_FRACTION),
    "ADL, every second layer": Variant(adl=True, every=2),
    "TAP + ADL, a quarter of the queries": Variant(tap=True, adl=True, query_fraction=QUERY_FRACTION),
    "TAP + ADL, every second layer": Variant(tap=True, adl=True, every=2),
}


def build(case: Case, variant: Variant) -> tuple[nn.Module, tapadl.AttentionDiversificationLoss | None]:
    """The model with what the variant attaches."""
    torch.manual_seed(0)
    model = timm.create_model(case.model, img_size=case.image_size)
    for block in model.blocks:
        nn.init.normal_(block.attn.qkv.weight, std=(2 / model.embed_dim) ** 0.5)
    if variant.tap:
        tapadl.attach_tap(model)
    if not variant.adl:
        return model, None
    blocks = list(range(0, len(model.blocks), variant.every))
    return model, tapadl.AttentionDiversificationLoss(
        model, blocks=blocks, query_fraction=variant.query_fraction
    )


def data(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(case.batch, 3, case.image_size, case.image_size, generator=generator)
    return images, torch.randint(1000, (case.batch,), generator=generator)


def training_step(case: Case, variant: Variant) -> Step:
    """Forward, loss and backward."""
    model, diversification = build(case, variant)
    images, labels = data(case)

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(images), labels)
        if diversification is not None:
            loss = loss + diversification()
        loss.backward()

    return step


def floor_of_adl(case: Case) -> Step:
    """What exact ADL cannot do without: of every layer three products and one softmax."""
    model, _ = build(case, Variant())
    attention = model.blocks[0].attn
    tokens = model.patch_embed.num_patches + model.num_prefix_tokens
    query, key = torch.randn(2, case.batch * attention.num_heads, tokens, attention.head_dim)
    buffer = torch.empty(len(query), tokens, tokens)

    def step() -> None:
        for _ in model.blocks:
            torch.softmax(torch.bmm(query, key.mT, out=buffer), dim=-1, out=buffer)
            torch.bmm(buffer, key)
            torch.bmm(buffer.mT, query)

    return step


def adl_gradients(case: Case, variant: Variant, draws: int) -> Iterator[torch.Tensor]:
    """The gradient of ADL alone by all parameters, once a draw."""
    model, diversification = build(case, variant)
    images, _ = data(case)
    assert diversification is not None
    parameters = list(model.parameters())
    for draw in range(draws):
        model.zero_grad(set_to_none=True)
        model(images)
        torch.manual_seed(draw)
        diversification().backward()
        yield torch.cat([(p.new_zeros(p.shape) if p.grad is None else p.grad).flatten() for p in parameters])


def cosines(case: Case, variant: Variant) -> dict[str, float]:
    """How far the gradient of a cheaper form points where the exact one does."""
    exact = next(adl_gradients(case, Variant(adl=True), 1))
    draws = DRAWS if variant.query_fraction < 1 else 1
    found = [F.cosine_similarity(exact, part, dim=0).item() for part in adl_gradients(case, variant, draws)]
    return {"mean": round(statistics.mean(found), 3), "least": round(min(found), 3), "draws": draws}


def measure_case(case: Case) -> list[dict[str, Any]]:
    """The rows of one model."""
    plain = training_step(case, Variant())
    floor = compare(plain, floor_of_adl(case), pairs=case.pairs, warmup=2)
    share = round(1 / floor.speedup, 3)
    rows = [as_row(floor, case=case._asdict(), variant="three products and a softmax alone", share=share)]
    print(
        f"{case.model} at {case.image_size}: {share} of the plain step is the floor of exact ADL", flush=True
    )
    for name, variant in VARIANTS.items():
        comparison = compare(plain, training_step(case, variant), pairs=case.pairs, warmup=2)
        low, high = comparison.speedup_quartiles
        cheaper = variant.query_fraction < 1 or variant.every > 1
        row = as_row(
            comparison,
            case=case._asdict(),
            variant=name,
            cost=round(1 / comparison.speedup, 3),
            cost_quartiles=(round(1 / high, 3), round(1 / low, 3)),
            gradient_cosine=cosines(case, variant) if cheaper and not variant.tap else None,
        )
        rows.append(row)
        cosine = f", gradient cosine {row['gradient_cosine']['mean']}" if row["gradient_cosine"] else ""
        print(
            f"{case.model} at {case.image_size}, batch {case.batch}, {name}: {row['cost']} x the plain step "
            f"(quartiles {row['cost_quartiles']}; {comparison.baseline_ms} -> {comparison.candidate_ms} ms)"
            f"{cosine}",
            flush=True,
        )
    return rows


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one small model; writes nothing")
    arguments = parser.parse_args()
    load_before = environment()["load_average"]
    rows = [row for case in (QUICK_CASES if arguments.quick else CASES) for row in measure_case(case)]
    if not arguments.quick:
        write_results(RESULTS, rows=rows, load_average_before=load_before)


if __name__ == "__main__":
    main()
