"""Segmenters on clean and corrupted images: from benchmarks by name to results, pages and comparisons."""
