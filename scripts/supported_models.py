"""Write docs/supported-models.md: what TAP and ADL do in the smallest member of every model family of timm.

Run: python scripts/supported_models.py                  (five minutes: builds every model, without memory)
     python scripts/supported_models.py --same-members   (two minutes: takes the members from the page)

A family is an entry of `timm.list_modules()`. A member is built with random weights, TAP and ADL are attached
where they fit, and an image that is not square (where the model allows one) goes forward and backward.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import timm
import torch
from rich.progress import track
from torch import nn

import tapadl
from tapadl.attach.site import find_sites

PAGE = Path(__file__).parent.parent / "docs" / "supported-models.md"
# Members whose smallest is still large are built with two blocks.
FEWER_BLOCKS: dict[str, dict[str, Any]] = {
    "deepseek_vit": {"depth": 2},
    "gemma4_vit": {"depth": 2},
    "qwen3_vit": {"depth": 2},
    "naflexvit": {"depth": 2},
    "beit": {"depth": 2},
}
# Beside the smallest member, what people use of a family that holds several architectures.
ALSO = [("maxxvit", "maxvit_rmlp_pico_rw_256"), ("vision_transformer", "vit_small_patch16_18x2_224")]
NOTHING_FOUND = "found no attention"


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    family: str
    member: str
    image: tuple[int, int]
    tap: str
    adl: str
    attends_over: str

    def markdown(self) -> str:
        """The line."""
        rows, cols = self.image
        image = f"{rows} x {cols}"
        return (
            f"| {self.family} | `{self.member}` | {image} | {self.tap} | {self.adl} | {self.attends_over} |"
        )


@dataclass
class Built:
    """A model that runs, with images it takes."""

    model: nn.Module
    images: torch.Tensor
    options: dict[str, Any] = field(default_factory=dict)


def smallest_member(family: str) -> str | None:
    """The member of fewest parameters that has attention sites or says why it takes none; None without."""
    for name in _by_size(family):
        with torch.device("meta"):
            model = timm.create_model(name)
        try:
            find_sites(model)
        except ValueError as error:
            if NOTHING_FOUND in str(error):
                continue
        return name
    return None


def _by_size(family: str) -> list[str]:
    sizes: list[tuple[int, str]] = []
    for name in timm.list_models(module=family):
        with torch.device("meta"):
            model = timm.create_model(name)
        sizes.append((sum(parameter.numel() for parameter in model.parameters()), name))
    return [name for _, name in sorted(sizes)]


def build(family: str, member: str) -> Built:
    """The member with random weights and the first image, not square if possible, that it takes."""
    native = timm.get_pretrained_cfg(member).input_size[1:]
    failures: list[Exception] = []
    for size in ((96, 224), (98, 224), (128, 256), native):
        for options in ({}, {"img_size": size}):
            options = {**options, **FEWER_BLOCKS.get(family, {})}
            try:
                torch.manual_seed(0)
                model = _awake(timm.create_model(member, **options).eval())
                images = torch.randn(2, 3, *size)
                with torch.no_grad():
                    model(images)
            except (AssertionError, RuntimeError, TypeError, ValueError) as error:
                failures.append(error)
            else:
                return Built(model, images, options)
    raise RuntimeError(f"{member} takes none of the images: {failures[-1]}")


def _awake(model: nn.Module) -> nn.Module:
    """The model with branches that are switched off at first, by a factor of zero, switched on."""
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return model


def examine(family: str, member: str) -> Row:
    """Attach, run, detach and compare; what was found as a line of the table."""
    try:
        find_sites(timm.create_model(member, **FEWER_BLOCKS.get(family, {})))
    except ValueError as error:
        reason = str(error).partition(": ")[2]
        return Row(family, member, timm.get_pretrained_cfg(member).input_size[1:], f"no: {reason}", "no", "-")
    built = build(family, member)
    sites = find_sites(built.model)
    tap, tap_blocks = _verdict([site.refuses_tap for site in sites])
    adl, adl_blocks = _verdict([site.refuses_adl for site in sites])
    attends_over = _run(built, tap_blocks, adl_blocks)
    return Row(family, member, tuple(built.images.shape[-2:]), tap, adl, attends_over)


def _verdict(refusals: list[str]) -> tuple[str, list[int]]:
    """What the table says, and the blocks that take it."""
    taken = [index for index, refusal in enumerate(refusals) if not refusal]
    reason = next((refusal for refusal in refusals if refusal), "")
    if not reason:
        return "yes", taken
    return (
        f"{len(taken)} of {len(refusals)} blocks; the others: {reason}" if taken else f"no: {reason}"
    ), taken


def _run(built: Built, tap_blocks: list[int], adl_blocks: list[int]) -> str:
    model, images = built.model, built.images
    keys = list(model.state_dict())
    with torch.no_grad():
        plain = _scalar(model(images))
    if tap_blocks:
        tapadl.attach_tap(model, blocks=tap_blocks)
    seen: set[str] = set()
    if adl_blocks:
        with tapadl.AttentionDiversificationLoss(model, tau=1.0, blocks=adl_blocks) as diversification:
            output = _scalar(model(images))
            seen = set(_attended(diversification, len(images)))
            (output + diversification()).backward()
    else:
        _scalar(model(images)).backward()
    for name, parameter in model.named_parameters():
        if ".tap." in name and (parameter.grad is None or not parameter.grad.any()):
            raise AssertionError(f"no gradient reaches {name} of {type(model).__name__}")
    tapadl.detach_tap(model)
    with torch.no_grad():
        if list(model.state_dict()) != keys or not torch.equal(_scalar(model(images)), plain):
            raise AssertionError(f"{type(model).__name__} is not what it was after detach_tap")
    return ", ".join(sorted(seen)) or "-"


def _attended(diversification: Any, batch: int) -> Iterator[str]:
    for calls in diversification._capture._heard:
        for call in calls:
            attention = call.attention if hasattr(call, "attention") else None
            queries = (call.query if attention is None else attention).shape
            keys = call.key.shape[2] if attention is None else attention.shape[3]
            if queries[0] > batch:
                yield "windows"
            elif queries[2] != keys:
                yield "fewer keys" if keys < queries[2] else "fewer queries"
            else:
                yield "all tokens"


def _scalar(output: Any) -> torch.Tensor:
    """The sum of all outputs, of which some families have several."""
    if isinstance(output, torch.Tensor):
        return output.float().sum()
    return torch.stack([_scalar(part) for part in output]).sum()


def page(rows: list[Row], without: list[str]) -> str:
    """The whole page."""
    lines = "\n".join(row.markdown() for row in rows)
    return f"""# Supported models of timm

What happens in the smallest member with attention of every family of timm {timm.__version__} (an entry of
`timm.list_modules()`), built with random weights. TAP and ADL are attached where they fit, an image that is
not square (where the model allows one) goes forward and backward, ADL is compared with maps recorded from
attention without fused kernels, and after `detach_tap` the output is the same bit for bit. The page is
written by `scripts/supported_models.py`; the tests run every line again.

Class-attention blocks take neither TAP nor ADL. In windowed attention ADL is computed in each window, over
the tokens of that window, padding included where the model attends to padding; the paper trained Swin and
does not say how. Where a model mixes its heads after the softmax (CaiT, EfficientFormer v2), the map before
that mixing counts.

| family | member | image | TAP | ADL | attends over |
|---|---|---|---|---|---|
{lines}

Families without self-attention over tokens, where `attach_tap` says so: {", ".join(without)}.
"""


def members_of_page() -> dict[str, str | None]:
    """The smallest members as the page has them."""
    text = PAGE.read_text(encoding="utf-8")
    without = re.search(r"says so: (.*)\.$", text, flags=re.MULTILINE)
    table = re.findall(r"^\| (\w+) \| `(\S+)` \|", text, flags=re.MULTILINE)
    members: dict[str, str | None] = {family: name for family, name in table if (family, name) not in ALSO}
    return members | dict.fromkeys(without[1].split(", ") if without else ())


def main() -> None:
    """Write the page."""
    members: dict[str, str | None] = {}
    if "--same-members" in sys.argv:
        members = members_of_page()
    else:
        for family in track(timm.list_modules(), "building every model"):
            members[family] = smallest_member(family)
    found = [(family, member) for family, member in members.items() if member is not None]
    rows = [examine(family, member) for family, member in track(sorted(found + ALSO), "running them")]
    without = [family for family, member in members.items() if member is None]
    PAGE.write_text(page(rows, without), encoding="utf-8")


if __name__ == "__main__":
    main()
