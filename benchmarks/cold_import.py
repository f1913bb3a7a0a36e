"""How much `import tapadl` adds to `import torch`: fresh processes, one pair after the other.

python benchmarks/cold_import.py
"""

import argparse
import subprocess
import sys
from pathlib import Path

from measure import as_row, compare, write_results

OUT = Path(__file__).parent / "results" / "cold_import.json"


def run(statement: str) -> None:
    """One fresh interpreter."""
    subprocess.run([sys.executable, "-c", statement], check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="check that it runs; writes nothing")
    quick = parser.parse_args().quick
    # The order is (numerator, denominator): a "speedup" of 1.05 means that tapadl adds 5 % to torch.
    comparison = compare(
        lambda: run("import tapadl"), lambda: run("import torch"), pairs=2 if quick else 15, warmup=1
    )
    added = comparison.baseline_ms - comparison.candidate_ms
    print(f"import tapadl / import torch: {comparison.speedup:.2f} (adds {added:.0f} ms)")
    if not quick:
        write_results(
            OUT, rows=[as_row(comparison, what="import tapadl / import torch")], lower_is_better=True
        )


if __name__ == "__main__":
    main()
