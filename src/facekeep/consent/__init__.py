"""Consent terms and records."""
