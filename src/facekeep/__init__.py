"""facekeep: an encrypted vault for face templates. See docs/SPEC.md and docs/THREATS.md."""
