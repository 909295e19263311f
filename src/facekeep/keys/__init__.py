"""The key tree, its providers and the swap."""
