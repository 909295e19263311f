"""What mypy says of answers that are misread. Checked with the other files, and never run.

``warn_unused_ignores`` fails where one of these mistakes is no mistake to mypy any more.
"""

from __future__ import annotations

from facekeep.vault import Gallery, Vault


def misread(vault: Vault, gallery: Gallery, path: str) -> None:
    if vault.verify("ada", path) == True:  # type: ignore[comparison-overlap]  # noqa: E712 - the mistake
        pass
    if vault.identify(path) == False:  # type: ignore[comparison-overlap]  # noqa: E712 - the mistake
        pass
    if vault.check_backup(path):  # type: ignore[truthy-bool]
        pass
    if vault.restore(path):  # type: ignore[truthy-bool]
        pass
    if vault.maintain():  # type: ignore[truthy-bool]
        pass
    if vault.keys.resume():  # type: ignore[truthy-bool]
        pass
    if vault.subjects():  # type: ignore[truthy-bool]
        pass
    _match, *_ = vault.verify("ada", path)  # type: ignore[misc]
    for _ in vault.identify(path):  # type: ignore[attr-defined]
        pass
    len(gallery.search(vault.extractor.extract(path)))  # type: ignore[arg-type]


def read(vault: Vault, gallery: Gallery, path: str) -> bool:
    if vault.verify("ada", path) and vault.identify(path) and vault.check():
        return bool(gallery.search(vault.extractor.extract(path)).candidates)
    return vault.is_enrolled("ada", [])
