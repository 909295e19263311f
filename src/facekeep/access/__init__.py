"""Principals, roles, and the gate."""
