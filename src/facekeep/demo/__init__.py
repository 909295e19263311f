"""The whole story on two people: consent, matching, withdrawal, erasure, a restore, a search."""
