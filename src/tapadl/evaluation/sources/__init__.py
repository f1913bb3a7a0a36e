"""Where models come from, one file a library."""

from tapadl.evaluation.sources.function import from_function
from tapadl.evaluation.sources.source import Source
from tapadl.evaluation.sources.timm import from_file, from_folder, from_hub, from_timm_name
from tapadl.evaluation.sources.torchvision import from_torchvision_name
from tapadl.evaluation.sources.transformers import from_transformers_id

__all__ = [
    "Source",
    "from_file",
    "from_folder",
    "from_function",
    "from_hub",
    "from_timm_name",
    "from_torchvision_name",
    "from_transformers_id",
]
