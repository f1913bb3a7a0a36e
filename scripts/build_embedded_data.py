"""Build the images that come with the package from the four original files of Fashion-MNIST.

    python scripts/build_embedded_data.py FOLDER           write subset.idx.xz into the package
    python scripts/build_embedded_data.py FOLDER --check   build it in memory and compare, bit for bit

FOLDER holds train-images-idx3-ubyte.gz and its three companions, from
https://github.com/zalandoresearch/fashion-mnist or from Debian's package `dataset-fashion-mnist`, which
installs them in /usr/share/datasets/fashion-mnist.
"""

import argparse
import hashlib
import sys
from pathlib import Path

from tapadl.data.embedded import FILE_NAME, pack, select_subset
from tapadl.data.fashion_mnist import (
    TEST_IMAGES,
    TEST_LABELS,
    TRAINING_IMAGES,
    TRAINING_LABELS,
    read_labelled,
)

TARGET = Path(__file__).parents[1] / "src" / "tapadl" / "data" / "fashion_mnist_subset" / FILE_NAME


def build(folder: Path) -> bytes:
    """The bytes of the data file, from the original files in `folder`."""
    training = read_labelled(folder, TRAINING_IMAGES, TRAINING_LABELS)
    test = read_labelled(folder, TEST_IMAGES, TEST_LABELS)
    return pack(select_subset(training, test))


def main() -> int:
    """Build, then write or compare; 1 where the comparison fails."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path, help="folder of the four original .gz files")
    parser.add_argument("--check", action="store_true", help="compare with the file instead of writing it")
    arguments = parser.parse_args()
    content = build(arguments.folder)
    print(f"{len(content):,} bytes, sha256 {hashlib.sha256(content).hexdigest()}")
    if not arguments.check:
        TARGET.write_bytes(content)
        return 0
    same = TARGET.read_bytes() == content
    print("identical to" if same else "different from", TARGET)
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
