"""Robust vision transformers in two lines: TAP and ADL."""
