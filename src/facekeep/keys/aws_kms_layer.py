"""The ``aws-kms:`` layer: a KEK for each record that AWS KMS wraps and unwraps (SPEC §4.6).

KMS sees vault id and root fingerprint as encryption context, and never a root, a share or a template.
Credentials come from boto3's own chain (environment, profile, instance role).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any, ClassVar, Final, Self
from urllib.parse import urlsplit

from facekeep.crypto.primitives import KEY_LEN
from facekeep.errors import MissingDependency, RootError, UsageError
from facekeep.formats.canonical import JsonObject
from facekeep.keys.layers import About, Layer, only
from facekeep.keys.provider import Place
from facekeep.keys.sealed_holder import KeyGone

ATTEMPTS: Final = 3  # of one call, the first among them
TIMEOUT_S: Final = 5  # to connect, and to wait for an answer
_WRAPPED_HEX: Final = 2 * 6144  # KMS takes no longer ciphertext
_INSTALL: Final = "pip install 'facekeep[aws]'"

_KEY: Final = re.compile(r"[A-Za-z0-9:/_-]{1,512}\Z")
_ARN: Final = re.compile(r"arn:[a-z0-9-]+:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]{1,128}\Z")
_REGION: Final = re.compile(r"[a-z0-9-]{1,40}\Z")

_SAID: Final = {
    "AccessDeniedException": ("denied the use of the key", "allow kms:GenerateDataKey and kms:Decrypt on it"),
    "DisabledException": ("says that the key is disabled", "enable the key"),
    "KMSInvalidStateException": ("says that the key is disabled or awaits deletion", "cancel its deletion"),
    "KeyUnavailableException": ("says that the key is unavailable", "try again later"),
    "NotFoundException": ("knows no such key", "check key and region in vault.toml"),
    "ThrottlingException": ("answers too many requests at the moment", "try again in a minute"),
    "LimitExceededException": ("answers too many requests at the moment", "try again in a minute"),
    "UnrecognizedClientException": ("does not know the credentials", "renew the AWS credentials"),
    "ExpiredTokenException": ("says that the credentials have expired", "renew the AWS credentials"),
    "InvalidSignatureException": ("does not accept the credentials", "renew the AWS credentials"),
}
_ANOTHERS: Final = {"InvalidCiphertextException", "IncorrectKeyException"}


class AwsKmsLayer(Layer):
    """Key id, key ARN or alias of a symmetric KMS key."""

    word: ClassVar[str] = "aws-kms"

    def __init__(
        self, place: Place, key: str, region: str | None = None, endpoint: str | None = None
    ) -> None:
        """Keep what to ask and where; the client is made by the first call."""
        super().__init__(place)
        self._key, self._region, self._endpoint = key, region, endpoint
        self._made: Any = None

    @classmethod
    def from_uri(cls, head: str, options: Mapping[str, str], place: Place) -> Self:
        """``aws-kms:KEY?region=REGION&endpoint=URL``; without a region that of boto3's configuration."""
        only(options, frozenset({"region", "endpoint"}), cls.word)
        region, endpoint = options.get("region"), options.get("endpoint")
        if not _KEY.match(head):
            raise UsageError("the aws-kms: layer names no key", next="write aws-kms:alias/NAME?region=REGION")
        if region is not None and not _REGION.match(region):
            raise UsageError("an AWS region is made of lower-case letters, digits and hyphens")
        if endpoint is not None and not _is_private(endpoint):
            raise UsageError("the endpoint of AWS KMS must begin with https://")
        return cls(place, head, region, endpoint)

    def begin(self) -> None:
        """Find boto3 before anything is made."""
        self._client()

    def new_key(self, about: About, proven: JsonObject | None) -> tuple[JsonObject, bytes]:
        """GenerateDataKey; that Decrypt is allowed too shows when the staged root is read back."""
        del proven
        answer = self._call(
            "generate_data_key", KeyId=self._key, KeySpec="AES_256", EncryptionContext=_context(about)
        )
        params: JsonObject = {"key": str(answer["KeyId"]), "wrapped": bytes(answer["CiphertextBlob"]).hex()}
        self._parse(params)
        return params, _key(answer)

    def fetch(self, about: About, params: JsonObject) -> bytes:
        """Decrypt, with the same context, by the key that the record names and no other."""
        key, wrapped = self._parse(params)
        answer = self._call("decrypt", KeyId=key, CiphertextBlob=wrapped, EncryptionContext=_context(about))
        if answer.get("KeyId") != key:
            raise RootError("AWS KMS answered with another key than it was asked for")
        return _key(answer)

    def _parse(self, params: JsonObject) -> tuple[str, bytes]:
        """(key ARN, wrapped KEK); raises KeyGone. A key that the URI names outright is the only one taken."""
        key, wrapped = params.get("key"), params.get("wrapped")
        if (
            params.keys() != {"key", "wrapped"}
            or not isinstance(key, str)
            or not _ARN.match(key)
            or not isinstance(wrapped, str)
            or not re.fullmatch(r"(?:[0-9a-f]{2})+", wrapped)
            or len(wrapped) > _WRAPPED_HEX
        ):
            raise KeyGone("its KMS parameters are not those of SPEC §4.6")
        if "alias/" not in self._key and key not in {self._key, f"{key.rpartition('/')[0]}/{self._key}"}:
            raise KeyGone("it was wrapped by another KMS key than vault.toml names")
        return key, bytes.fromhex(wrapped)

    def _call(self, name: str, **arguments: object) -> Mapping[str, Any]:
        client = self._client()
        from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415 - an extra, there by now

        try:
            answer: Mapping[str, Any] = getattr(client, name)(**arguments)
        except ClientError as error:
            raise _refusal(str(error.response.get("Error", {}).get("Code", ""))) from error
        except BotoCoreError as error:
            raise _unreachable(error) from error
        return answer

    def _client(self) -> Any:  # noqa: ANN401 - boto3 makes its classes at run time
        try:
            import boto3  # noqa: PLC0415 - an extra
            from botocore.config import Config  # noqa: PLC0415
            from botocore.exceptions import BotoCoreError  # noqa: PLC0415
        except ImportError as error:
            raise MissingDependency("the aws-kms: layer needs boto3", next=_INSTALL) from error
        if self._made is None:
            config = Config(
                connect_timeout=TIMEOUT_S,
                read_timeout=TIMEOUT_S,
                retries={"total_max_attempts": ATTEMPTS, "mode": "standard"},
            )
            try:
                session = boto3.session.Session(region_name=self._region)
                self._made = session.client("kms", endpoint_url=self._endpoint, config=config)
            except BotoCoreError as error:
                raise _unreachable(error) from error
        return self._made


def _context(about: About) -> dict[str, str]:
    """Return the encryption context, which KMS authenticates and logs."""
    return {"facekeep:vault": about.vault_id.hex(), "facekeep:root": about.root.hex()}


def _key(answer: Mapping[str, Any]) -> bytes:
    key = bytes(answer["Plaintext"])
    if len(key) != KEY_LEN:
        raise RootError("AWS KMS gave a key of another length than was asked for")
    return key


def _refusal(code: str) -> RootError:
    """Say what KMS said; nothing of its own text, which may name accounts and roles."""
    if code in _ANOTHERS:
        return KeyGone("its KEK was not wrapped for this vault and root: the record was altered")
    said, step = _SAID.get(code, (f"answered with {code[:60] or 'an error'}", "see the AWS console"))
    return RootError(f"AWS KMS {said}", next=f"{step}; no file was changed")


def _unreachable(error: Exception) -> RootError:
    kind = type(error).__name__
    if "Credential" in kind or kind == "ProfileNotFound":
        return RootError(
            "there are no AWS credentials", next="give them as boto3 finds them: environment, profile or role"
        )
    if kind == "NoRegionError":
        return RootError("no AWS region is named", next="write aws-kms:KEY?region=REGION, or set AWS_REGION")
    return RootError(f"AWS KMS cannot be reached ({kind})", next="mend the connection, then try again")


def _is_private(endpoint: str) -> bool:
    """Whether nobody on the way can read it: https, or a server on this machine."""
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname or ""
        return bool(host) and (
            parts.scheme == "https" or (parts.scheme == "http" and ip_address(host).is_loopback)
        )
    except ValueError:
        return False
