"""The only importer of cryptography and nacl: primitives and locked memory."""
