"""Pages of numbers: what all of them share, and the one that an evaluation writes."""
