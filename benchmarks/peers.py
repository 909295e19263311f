"""The peers: other envelope encryption opening the same 512 bytes, with a key service inside the process."""

from __future__ import annotations

import os
from collections.abc import Callable

import aws_encryption_sdk
import tink
from aws_encryption_sdk.identifiers import EncryptionKeyType, WrappingAlgorithm
from aws_encryption_sdk.internal.crypto.wrapping_keys import WrappingKey
from aws_encryption_sdk.key_providers.raw import RawMasterKeyProvider
from tink import aead

PLAINTEXT = os.urandom(512)


def tink_opener() -> Callable[[], object]:
    """Tink's KmsEnvelopeAead; the remote key is a local AEAD, so no network is counted."""
    aead.register()
    remote = tink.new_keyset_handle(aead.aead_key_templates.AES256_GCM).primitive(aead.Aead)
    envelope = aead.KmsEnvelopeAead(aead.aead_key_templates.AES256_GCM, remote)
    sealed = envelope.encrypt(PLAINTEXT, b"context")
    return lambda: envelope.decrypt(sealed, b"context")


class _Local(RawMasterKeyProvider):  # type: ignore[misc] # untyped package
    provider_id = "local"
    _key = os.urandom(32)

    def _get_raw_key(self, key_id: str) -> WrappingKey:
        del key_id
        return WrappingKey(
            wrapping_algorithm=WrappingAlgorithm.AES_256_GCM_IV12_TAG16_NO_PADDING,
            wrapping_key=self._key,
            wrapping_key_type=EncryptionKeyType.SYMMETRIC,
        )


def aws_opener() -> Callable[[], object]:
    """AWS Encryption SDK with a raw AES wrapping key and key commitment, unsigned."""
    provider = _Local()
    provider.add_master_key("local")
    client = aws_encryption_sdk.EncryptionSDKClient()
    sealed, _ = client.encrypt(
        source=PLAINTEXT,
        key_provider=provider,
        algorithm=aws_encryption_sdk.Algorithm.AES_256_GCM_HKDF_SHA512_COMMIT_KEY,
        encryption_context={"a": "b"},
    )
    policy = aws_encryption_sdk.CommitmentPolicy.REQUIRE_ENCRYPT_ALLOW_DECRYPT
    reader = aws_encryption_sdk.EncryptionSDKClient(commitment_policy=policy)
    return lambda: reader.decrypt(source=sealed, key_provider=provider)
