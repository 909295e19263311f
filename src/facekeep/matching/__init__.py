"""Extractors, models, thresholds, galleries."""
