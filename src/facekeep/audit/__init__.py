"""What an auditor runs, with a public key and nothing of the vault (SPEC §11)."""
