"""A SoftHSM token in a directory of a test's own, and the pkcs11: provider on it.

``provider(tmp_path, vault_id)`` is all a test of every provider needs; it makes the token on first use.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from facekeep.formats.ids import VAULT_ID_LEN
from facekeep.keys.holders import provider_from_uri
from facekeep.keys.provider import Place, RootProvider
from facekeep.keys.secrets import Secrets
from wanting import wanting

LABEL = "vault keys"  # a space, to be percent-encoded
PIN = "471100"
SO_PIN = "999999"
SOURCE = str(Path(__file__).resolve().parent.parent / "src")


def require() -> None:
    """Skip where SoftHSM or python-pkcs11 is not installed; fail there in CI."""
    missing = [] if shutil.which("softhsm2-util") else ["softhsm2 (apt install softhsm2)"]
    try:
        import pkcs11  # noqa: F401, PLC0415 - an extra
    except ImportError:
        missing.append("python-pkcs11 (pip install 'facekeep[pkcs11]')")
    if missing:
        message = f"the pkcs11: provider needs {' and '.join(missing)}"
        wanting(message)


def set_up(tmp_path: Path) -> None:
    """Make the token of ``tmp_path`` on first use, and have this process and its children use it."""
    require()
    tokens = tmp_path / "tokens"
    pin = tmp_path / "pin"
    os.environ["SOFTHSM2_CONF"] = str(tmp_path / "softhsm2.conf")
    if not tokens.exists():
        tokens.mkdir(mode=0o700)
        pin.touch(mode=0o600)
        pin.write_text(f"{PIN}\n")
        (tmp_path / "softhsm2.conf").write_text(
            f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n"
        )
        make_token(LABEL)
    forget()


def make_token(label: str, pin: str = PIN, environment: Mapping[str, str] | None = None) -> None:
    """Make one more token in the directory that SOFTHSM2_CONF names, here or in ``environment``."""
    subprocess.run(
        ["softhsm2-util", "--init-token", "--free", "--label", label, "--pin", pin, "--so-pin", SO_PIN],
        check=True,
        capture_output=True,
        env={**os.environ, **(environment or {})},
    )


def forget() -> None:
    """Have the library read its configuration and its tokens again, as a new process would."""
    from facekeep.keys.pkcs11_module import SOFTHSM, module_path, restart  # noqa: PLC0415 - an extra

    assert module_path(None) in SOFTHSM
    restart(module_path(None))


def uri(tmp_path: Path, **more: str) -> str:
    """URI of a holder on the token of ``tmp_path``, its holder file ``tmp_path/holder``."""
    query = {"pin-source": f"file:{tmp_path}/pin", "x-file": f"{tmp_path}/holder"} | {
        name.replace("_", "-"): value for name, value in more.items()
    }
    path = "".join(f";{name}={query.pop(name)}" for name in ("object", "serial", "slot-id") if name in query)
    return f"pkcs11:token=vault%20keys{path}?{'&'.join(f'{name}={value}' for name, value in query.items())}"


def provider(tmp_path: Path, vault_id: bytes, secrets: Secrets | None = None, **more: str) -> RootProvider:
    """Return the provider, with the token of ``tmp_path`` in the machine."""
    set_up(tmp_path)
    return provider_here(tmp_path, vault_id, secrets, **more)


def provider_here(
    tmp_path: Path, vault_id: bytes, secrets: Secrets | None = None, **more: str
) -> RootProvider:
    """Return the provider as any process would make it: the library keeps what it remembers."""
    assert len(vault_id) == VAULT_ID_LEN
    return provider_from_uri(uri(tmp_path, **more), Place(vault_id, tmp_path, secrets or Secrets()))


def elsewhere(tmp_path: Path, code: str, *arguments: str) -> str:
    """What a new process prints that runs ``code`` with the token of ``tmp_path``; it must succeed."""
    environment = os.environ | {
        "SOFTHSM2_CONF": str(tmp_path / "softhsm2.conf"),
        "PYTHONPATH": os.pathsep.join([SOURCE, str(Path(__file__).parent)]),
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(tmp_path: Path) -> list[str]:
    """Labels of all objects on every token of ``tmp_path``, as another process sees them."""
    code = (
        "import json, sys, pkcs11\n"
        "found = []\n"
        "for slot in pkcs11.lib(sys.argv[1]).get_slots():\n"
        "    token = slot.get_token()\n"
        "    if pkcs11.TokenFlag.TOKEN_INITIALIZED in token.flags:\n"
        "        with token.open(user_pin=sys.argv[2]) as session:\n"
        "            found += [each[pkcs11.Attribute.LABEL] for each in session.get_objects()]\n"
        "print(json.dumps(sorted(found)))\n"
    )
    from facekeep.keys.pkcs11_module import module_path  # noqa: PLC0415 - an extra

    labels: list[str] = json.loads(elsewhere(tmp_path, code, module_path(None), PIN))
    return labels
