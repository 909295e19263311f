"""Sealed blobs and the Permit that opens them."""
