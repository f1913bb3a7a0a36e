"""What every source of models gives, and how their failures are told."""

import contextlib
import difflib
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from tapadl.evaluation.preprocessing import Preprocessing


@dataclass(frozen=True)
class Source:
    """A model with its weights.

    Args:
        model: Gives logits, or an output of transformers that holds them.
        preprocessing: What it expects to be done to a picture.
        facts: What is known about it.
    """

    model: nn.Module
    preprocessing: Preprocessing
    facts: dict[str, str] = field(default_factory=dict)


@contextlib.contextmanager
def told_in_a_sentence(what: str) -> Iterator[None]:
    """Libraries fail in many ways, network among them; all become one sentence."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"{what}: {reason_of(error)}; without a network, give a file or a folder of your own"
        ) from error
    except Exception as error:
        raise ValueError(f"{what}: {reason_of(error)}") from error


def reason_of(error: Exception) -> str:
    """Kind and first words of an error."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    words = textwrap.shorten(" ".join(lines[:3]), 400, placeholder=" ...")
    return f"{type(error).__name__}: {words}" if lines else type(error).__name__


def nearest(name: str, known: Sequence[str]) -> str:
    """A question about the known names that are most like a name, to end a sentence with."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"; did you mean {', '.join(close)}?" if close else ""


def without_folders(model_id: str) -> str:
    """A hub's identifier as it is, a folder by its name alone."""
    return Path(model_id).resolve().name if Path(model_id).is_dir() else model_id
