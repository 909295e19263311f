"""Bytes to values and back: strict, total, canonical; no I/O, no keys."""
