"""The definitions of WordNet's nouns with their classes, and character noise to corrupt them with.

The data is read from `data.noun` of an installed WordNet (Debian's package wordnet-base, WordNet licence).
The class of a noun is its lexicographer file: 26 of them, from "act" and "animal" to "substance" and "time".
"""

from pathlib import Path
from typing import NamedTuple

import numpy as np

NUM_CLASSES = 26
FIRST_LEXICOGRAPHER_FILE = 3  # of nouns; WordNet's lexnames(5WN)
FOLDERS = (Path("/usr/share/wordnet"), Path("/usr/local/share/wordnet"), Path("/opt/homebrew/share/wordnet"))
NOISE_RATES = (0.02, 0.05, 0.1, 0.15, 0.25)  # share of edited characters, severity 1 to 5
LETTERS = "abcdefghijklmnopqrstuvwxyz"


class Gloss(NamedTuple):
    """A definition and the index of its class."""

    text: str
    label: int


def find_nouns(folder: Path | None = None) -> Path:
    """The file data.noun in a folder, or where packages put it.

    Raises:
        FileNotFoundError: If it is not there; says how to get it.
    """
    candidates = FOLDERS if folder is None else (folder, folder / "dict")
    for candidate in candidates:
        if (candidate / "data.noun").is_file():
            return candidate / "data.noun"
    raise FileNotFoundError(
        f"expected WordNet's data.noun in one of {', '.join(map(str, candidates))}, found none; install it "
        f"(`apt install wordnet-base`) or name its folder with --wordnet DIR"
    )


def read_glosses(path: Path) -> list[Gloss]:
    """Every definition once, in the order of the file; the examples in quotes are left out.

    Raises:
        ValueError: If a line is not one of a noun synset; says which.
    """
    glosses: dict[str, Gloss] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if line.startswith("  "):  # the licence
            continue
        fields, bar, gloss = line.partition(" | ")
        words = fields.split()
        label = int(words[1]) - FIRST_LEXICOGRAPHER_FILE if bar and words[1:2] and words[1].isdigit() else -1
        if not 0 <= label < NUM_CLASSES:
            raise ValueError(
                f'expected line {number} of {path.name} to be "offset file n ... | gloss" with a file of 03 '
                f"to 28, got {line[:40]!r}"
            )
        text = gloss.partition('"')[0].strip(" ;:")
        if text:
            glosses.setdefault(text, Gloss(text, label))
    return list(glosses.values())


def split_glosses(glosses: list[Gloss], sizes: tuple[int, ...], seed: int) -> list[list[Gloss]]:
    """Disjoint random parts of the given sizes.

    Raises:
        ValueError: If there are not enough glosses.
    """
    if sum(sizes) > len(glosses):
        raise ValueError(
            f"expected at least {sum(sizes)} definitions for parts of {sizes}, got {len(glosses)}"
        )
    order = np.random.default_rng(seed).permutation(len(glosses))
    ends = np.cumsum(sizes)
    return [[glosses[i] for i in order[end - size : end]] for end, size in zip(ends, sizes, strict=True)]


def add_character_noise(text: str, severity: int, seed: tuple[int, ...]) -> str:
    """A text whose characters are edited with the probability of the severity, the same for the same seed.

    An edited character is replaced by a random letter, left out, preceded by a random letter, or swapped with
    the next (the last is left out), each with probability 1/4.

    Raises:
        ValueError: If the severity is not 1 to 5.
    """
    if severity not in range(1, len(NOISE_RATES) + 1):
        raise ValueError(f"expected a severity of 1 to {len(NOISE_RATES)}, got {severity}")
    random = np.random.default_rng([severity, *seed])
    noisy, place = [], 0
    while place < len(text):
        kept = text[place]
        place += 1
        if random.random() >= NOISE_RATES[severity - 1]:
            noisy.append(kept)
            continue
        edit, letter = random.integers(4), LETTERS[random.integers(len(LETTERS))]
        if edit == 0:
            noisy.append(letter)
        elif edit == 1:
            noisy.extend((letter, kept))
        elif edit == 2 and place < len(text):
            noisy.extend((text[place], kept))
            place += 1
    return "".join(noisy)
