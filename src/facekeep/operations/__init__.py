"""What changes a vault: intent, effect, completion."""
