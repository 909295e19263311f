"""The facekeep command."""
