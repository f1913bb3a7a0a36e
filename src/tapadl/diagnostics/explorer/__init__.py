"""A page to explore what models attend to, clean and corrupted."""

from tapadl.diagnostics.explorer.exploration import (
    DEFAULT_CORRUPTIONS,
    DEFAULT_MEGABYTES,
    DEFAULT_SEVERITIES,
    all_conditions,
)
from tapadl.diagnostics.explorer.page import WrittenPage, write_explorer
from tapadl.diagnostics.explorer.subject import Picture, Subject

__all__ = [
    "DEFAULT_CORRUPTIONS",
    "DEFAULT_MEGABYTES",
    "DEFAULT_SEVERITIES",
    "Picture",
    "Subject",
    "WrittenPage",
    "all_conditions",
    "write_explorer",
]
