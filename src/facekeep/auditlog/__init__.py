"""The transparency log: append, decide, read, prove."""
