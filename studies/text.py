"""TAP and ADL beyond the image: a BERT-like classifier of definitions, clean and with typing errors.

    OMP_NUM_THREADS=1 python studies/text.py               write results/text.json
    python studies/text.py --quick --out runs/text.json    a small model and few texts, in seconds

The task: which of WordNet's 26 noun classes (animal, artifact, feeling, ...) is a definition from? The model
is transformers' BERT, small, from scratch, on pieces of a WordPiece vocabulary made of the training texts.
Every variant of a seed sees the same texts in the same order for as many steps. TAP stands in front of each
self-attention alone, because BERT has its norm after the attention. What was chosen (learning rate, batch
size, range of the initial weights) was chosen on validation texts with the plain model.
"""

import argparse
import shlex
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

import tapadl
from tapadl.data.json_file import save_json
from tapadl.evaluation.provenance import hardware, versions
from text_batches import EncodedTexts, train_tokenizer
from wordnet import NOISE_RATES, NUM_CLASSES, find_nouns, read_glosses, split_glosses

RESULTS = Path(__file__).parents[1] / "results" / "text.json"
VARIANTS = ("plain", "tap", "adl", "tap+adl")
SPLIT_SEED = 0
METRICS = ("clean_error", *(f"noise_{severity}_error" for severity in range(1, 6)), "mean_noise_error")


@dataclass(frozen=True)
class Settings:
    """Sizes of data and model, and how it is trained."""

    train: int = 48_000
    validation: int = 2_000
    test: int = 4_000
    vocabulary: int = 4_000
    max_tokens: int = 64
    width: int = 128
    layers: int = 4
    heads: int = 4
    initializer_range: float = 0.06
    epochs: int = 1
    batch_size: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.01
    adl_weight: float = 1.0
    adl_tau: float = 2.0
    num_branches: int = 4


QUICK = Settings(train=400, validation=50, test=100, vocabulary=500, width=32, layers=2, heads=2, epochs=1)


@dataclass(frozen=True)
class Data:
    """The encoded parts; the test texts clean and with noise of severity 1 to 5."""

    train: EncodedTexts
    validation: EncodedTexts
    test: list[EncodedTexts]
    vocabulary: int

    @classmethod
    def of(cls, nouns: Path, settings: Settings) -> "Data":
        """The same parts for the same settings."""
        sizes = (settings.train, settings.validation, settings.test)
        train, validation, test = split_glosses(read_glosses(nouns), sizes, SPLIT_SEED)
        tokenizer = train_tokenizer(train, settings.vocabulary, settings.max_tokens)
        return cls(
            EncodedTexts.of(train, tokenizer),
            EncodedTexts.of(validation, tokenizer),
            [EncodedTexts.of(test, tokenizer, severity) for severity in range(6)],
            tokenizer.get_vocab_size(),
        )


def attention_sites(model: BertForSequenceClassification) -> list[tapadl.Site]:
    """The self-attentions, with TAP in front of them alone."""
    return [
        tapadl.Site(
            block=layer,
            attention=layer.attention.self,
            norm=layer.attention.self,
            num_prefix_tokens=1,  # [CLS]
            grid=tapadl.SequenceGrid(padding=padding_of_layer),
        )
        for layer in model.bert.encoder.layer
    ]


def padding_of_layer(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Tensor | None:
    """Padding (B, N) in a call of a layer: the keys that no query sees; None where nothing is padded."""
    visible: torch.Tensor | None = args[1] if len(args) > 1 else kwargs.get("attention_mask")
    return None if visible is None else ~visible.any(dim=-2).squeeze(1)


def build(
    variant: str, seed: int, settings: Settings, vocabulary: int
) -> tuple[BertForSequenceClassification, tapadl.AttentionDiversificationLoss | None]:
    """The model of a variant, and its loss; what the variants share starts from the same weights."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=settings.width,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        intermediate_size=4 * settings.width,
        max_position_embeddings=settings.max_tokens,
        initializer_range=settings.initializer_range,
        num_labels=NUM_CLASSES,
        attn_implementation="sdpa",
    )
    model = BertForSequenceClassification(config)
    sites = attention_sites(model)
    if "tap" in variant:
        tapadl.attach_tap(model, num_branches=settings.num_branches, sites=sites)
    if "adl" not in variant:
        return model, None
    return model, tapadl.AttentionDiversificationLoss(model, tau=settings.adl_tau, sites=sites)


def train(
    model: BertForSequenceClassification,
    diversification: tapadl.AttentionDiversificationLoss | None,
    texts: EncodedTexts,
    seed: int,
    settings: Settings,
) -> dict[str, float]:
    """Train in place; steps, seconds, and the mean losses of the last epoch."""
    random = np.random.default_rng(seed)
    epochs = [texts.batches(settings.batch_size, random) for _ in range(settings.epochs)]
    steps = sum(map(len, epochs))
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, settings.learning_rate, total_steps=steps, pct_start=0.1, cycle_momentum=False
    )
    torch.manual_seed(seed)  # of the dropout
    model.train()
    began, losses = time.perf_counter(), {"cross_entropy": 0.0, "diversification": 0.0}
    for batches in epochs:
        losses = dict.fromkeys(losses, 0.0)
        for chosen in batches:
            ids, mask, labels = texts.batch(chosen)
            loss = F.cross_entropy(model(input_ids=ids, attention_mask=mask).logits, labels)
            losses["cross_entropy"] += loss.item() / len(batches)
            if diversification is not None:
                diversity = diversification()
                losses["diversification"] += diversity.item() / len(batches)
                loss = loss + settings.adl_weight * diversity
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
    return {"steps": steps, "seconds": time.perf_counter() - began, **losses}


@torch.no_grad()
def error(model: BertForSequenceClassification, texts: EncodedTexts) -> float:
    """Share of texts whose most probable class is wrong."""
    model.eval()
    order = sorted(range(len(texts.ids)), key=lambda i: len(texts.ids[i]))
    wrong = 0
    for i in range(0, len(order), 100):
        ids, mask, labels = texts.batch(order[i : i + 100])
        wrong += int((model(input_ids=ids, attention_mask=mask).logits.argmax(1) != labels).sum())
    return wrong / len(order)


def run(variant: str, seed: int, data: Data, settings: Settings) -> dict[str, Any]:
    """Train and measure one model."""
    model, diversification = build(variant, seed, settings, data.vocabulary)
    trained = train(model, diversification, data.train, seed, settings)
    if diversification is not None:
        diversification.close()
    errors = [error(model, texts) for texts in data.test]
    return {
        "variant": variant,
        "seed": seed,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **{name: round(value, 4) for name, value in trained.items()},
        "validation_error": error(model, data.validation),
        **dict(zip(METRICS, [*errors, statistics.fmean(errors[1:])], strict=True)),
    }


def over_seeds(rows: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation of each metric; no deviation of a single seed."""
    values = {metric: [row[metric] for row in rows] for metric in METRICS}
    return {
        metric: {
            "mean": statistics.fmean(found),
            "std": statistics.stdev(found) if len(found) > 1 else None,
        }
        for metric, found in values.items()
    }


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Each variant over the seeds, and its difference to the plain model of the same seed."""
    by_variant = {variant: [row for row in runs if row["variant"] == variant] for variant in VARIANTS}
    plain = {row["seed"]: row for row in by_variant["plain"]}
    differences = {
        variant: [
            {metric: row[metric] - plain[row["seed"]][metric] for metric in METRICS}
            for row in rows
            if row["seed"] in plain
        ]
        for variant, rows in by_variant.items()
        if variant != "plain"
    }
    return {
        "summary": {variant: over_seeds(rows) for variant, rows in by_variant.items() if rows},
        "paired": {variant: over_seeds(rows) for variant, rows in differences.items() if rows},
    }


def main(argv: list[str] | None = None) -> None:
    """Run all variants and seeds; the file is written after each run."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--wordnet", type=Path, help="folder of WordNet's data.noun")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--learning-rate", type=float, help=f"default {Settings.learning_rate}")
    parser.add_argument("--quick", action="store_true", help="a small model, few texts")
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args(argv)
    settings = QUICK if arguments.quick else Settings()
    if arguments.learning_rate is not None:
        settings = replace(settings, learning_rate=arguments.learning_rate)
    try:
        nouns = find_nouns(arguments.wordnet)
    except FileNotFoundError as missing:
        raise SystemExit(str(missing)) from None
    torch.set_num_threads(1)
    data = Data.of(nouns, settings)
    options = sys.argv[1:] if argv is None else argv
    runs: list[dict[str, Any]] = []
    for seed in arguments.seeds:
        for variant in arguments.variants:
            runs.append(run(variant, seed, data, settings))
            row = runs[-1]
            print(
                f"{variant}, seed {seed}: {row['clean_error']:.4f} clean, "
                f"{row['mean_noise_error']:.4f} noisy, {row['validation_error']:.4f} validation, "
                f"{row['seconds']:.0f} s",
                flush=True,
            )
            content = {
                "schema": 1,
                "kind": "text-study",
                "command": shlex.join(["python", "studies/text.py", *options]),
                "data": {
                    "name": "WordNet 3 noun definitions, classes by lexicographer file",
                    "sha256": sha256(nouns.read_bytes()).hexdigest(),
                    "noise_rates": NOISE_RATES,
                    "split_seed": SPLIT_SEED,
                },
                "settings": asdict(settings),
                "versions": versions() | {name: version(name) for name in ("transformers", "tokenizers")},
                "hardware": hardware(torch.device("cpu")),
                "runs": runs,
                **summarise(runs),
            }
            save_json(content, arguments.out)


if __name__ == "__main__":
    main()
