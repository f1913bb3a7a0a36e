"""What a result was made with."""

import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch


def versions() -> dict[str, str]:
    """Of Python and of the libraries that decide numbers."""
    return {
        "python": platform.python_version(),
        **{name: version(name) for name in ("tapadl", "torch", "timm", "numpy", "scipy", "pillow")},
    }


def hardware(device: torch.device) -> dict[str, Any]:
    """Processor, cores, threads in use and the device; nothing that names the machine."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "system": f"{platform.system()} {platform.machine()}",
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
