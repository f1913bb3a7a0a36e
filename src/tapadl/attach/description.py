"""A look at what is attached to a model."""

from collections.abc import Sequence

from torch import nn

from tapadl.attach.capture import SiteListener
from tapadl.attach.site import Site, select_sites
from tapadl.attach.tap import AttachedTAP


def describe(model: nn.Module, sites: Sequence[Site] | None = None) -> None:
    """Print the attention sites of a model, what is attached to each, and the parameters that TAP added.

    Args:
        model: A model that `attach_tap` would take.
        sites: Its sites, for a model of one's own that was attached to with `sites`.

    Raises:
        ValueError: If no site is found.

    Example:
        >>> import timm, tapadl
        >>> model = timm.create_model("vit_tiny_patch16_224", depth=2)
        >>> tapadl.describe(tapadl.attach_tap(model, blocks=[1]))
        VisionTransformer: 2 attention sites
          site  block     attention  TAP         ADL
          0     blocks.0  Attention  -           -
          1     blocks.1  Attention  4 branches  -
        TAP parameters: 7,064 of 1,275,840 (0.55%)
    """
    chosen = select_sites(model, sites, None)
    rows = [("site", "block", "attention", "TAP", "ADL")]
    rows += [
        (str(index), name, type(site.attention).__name__, _tap_column(site), _adl_column(site))
        for index, (name, site) in enumerate(chosen)
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    total = sum(parameter.numel() for parameter in model.parameters())
    added = sum(
        parameter.numel()
        for module in model.modules()
        if isinstance(module, AttachedTAP)
        for parameter in module.parameters()
    )
    print(f"{type(model).__name__}: {len(chosen)} attention sites")
    for row in rows:
        print("  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print(f"TAP parameters: {added:,} of {total:,} ({added / max(total, 1):.2%})")


def _tap_column(site: Site) -> str:
    tap = getattr(site.block, "tap", None)
    if not isinstance(tap, AttachedTAP):
        return f"does not fit: {site.refuses_tap}" if site.refuses_tap else "-"
    return f"{tap.num_branches} branches" + ("" if tap.gate is None else ", gated")


def _adl_column(site: Site) -> str:
    owners = (getattr(hook, "__self__", None) for hook in site.attention._forward_pre_hooks.values())
    if any(isinstance(owner, SiteListener) and owner.capture.is_open for owner in owners):
        return "listens"
    return f"has no meaning: {site.refuses_adl}" if site.refuses_adl else "-"
