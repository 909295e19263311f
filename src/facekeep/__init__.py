"""facekeep: an encrypted vault for face templates. See docs/spec and docs/THREATS.md.

Everything that an application needs is here: ``from facekeep import Vault, Consent, Scope``. A name is loaded
when it is first used, so that ``import facekeep`` alone loads nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Final

# fmt: off
# isort: off
if TYPE_CHECKING:  # the same names as in _NAMES, for type checkers
    from facekeep.access.roles import Role as Role
    from facekeep.answers import Listing as Listing
    from facekeep.audit.proven import Proven as Proven, ProvenGrant as ProvenGrant, Root as Root
    from facekeep.audit.report import Report as Report, Step as Step, Verdict as Verdict
    from facekeep.auditlog.export import Exported as Exported
    from facekeep.clock import Clock as Clock
    from facekeep.consent.consent import Consent as Consent, Notice as Notice
    from facekeep.errors import AlreadyEnrolled as AlreadyEnrolled, Busy as Busy, ClockError as ClockError
    from facekeep.errors import ConsentError as ConsentError, Denied as Denied
    from facekeep.errors import ErasurePending as ErasurePending, FacekeepError as FacekeepError
    from facekeep.errors import ForeignFile as ForeignFile, FormatError as FormatError
    from facekeep.errors import ImageError as ImageError, IntegrityError as IntegrityError
    from facekeep.errors import MissingDependency as MissingDependency, NextStep as NextStep
    from facekeep.errors import NotOnePerson as NotOnePerson
    from facekeep.errors import NotAllowed as NotAllowed, RootError as RootError
    from facekeep.errors import ScopeUnknown as ScopeUnknown, SettingsChanged as SettingsChanged
    from facekeep.errors import StoreError as StoreError, SubjectUnknown as SubjectUnknown
    from facekeep.errors import TreeFull as TreeFull, UsageError as UsageError, VaultExists as VaultExists
    from facekeep.errors import Unavailable as Unavailable, VaultClosed as VaultClosed
    from facekeep.errors import VaultNotFound as VaultNotFound, WrongType as WrongType
    from facekeep.formats.bundle import Statement as Statement
    from facekeep.formats.canonical import JsonObject as JsonObject
    from facekeep.formats.checkpoint import Checkpoint as Checkpoint
    from facekeep.formats.manifest import Manifest as Manifest
    from facekeep.formats.matching import Matching as Matching
    from facekeep.formats.note import KeyType as KeyType, VerifierKey as VerifierKey
    from facekeep.formats.opening import Opening as Opening
    from facekeep.formats.schedule import Schedule as Schedule
    from facekeep.formats.settings import Settings as Settings
    from facekeep.formats.terms import Scope as Scope
    from facekeep.keys.recovery_key import RecoveryKey as RecoveryKey
    from facekeep.keys.secrets import Secrets as Secrets
    from facekeep.matching.answers import Candidate as Candidate, Identification as Identification
    from facekeep.matching.answers import Verification as Verification
    from facekeep.matching.extractor import Extractor as Extractor
    from facekeep.matching.gallery import Gallery as Gallery
    from facekeep.matching.images import ImageInput as ImageInput, PillowImage as PillowImage
    from facekeep.matching.images import RgbImage as RgbImage
    from facekeep.matching.model import Model as Model
    from facekeep.matching.raw import raw_model as raw_model
    from facekeep.matching.threshold import Threshold as Threshold
    from facekeep.operations.auditing import Filter as Filter
    from facekeep.operations.backups import BackupCheck as BackupCheck, BackupReport as BackupReport
    from facekeep.operations.check import CheckReport as CheckReport, Finding as Finding
    from facekeep.operations.enrol import Enrolment as Enrolment, Existing as Existing
    from facekeep.operations.erase import Erasure as Erasure
    from facekeep.operations.estimating import Extent as Extent
    from facekeep.operations.fates import Refusal as Refusal, Returning as Returning, Staying as Staying
    from facekeep.operations.health import HolderState as HolderState
    from facekeep.operations.keyops import Keys as Keys
    from facekeep.operations.maintain import Maintained as Maintained, MaintenanceStep as MaintenanceStep
    from facekeep.operations.move import Holders as Holders, Moved as Moved, Planned as Planned
    from facekeep.operations.people import Listed as Listed
    from facekeep.operations.probing import Probed as Probed, Tally as Tally
    from facekeep.operations.proving import Proof as Proof, Said as Said
    from facekeep.operations.receipts import GrantReceipt as GrantReceipt, Receipt as Receipt
    from facekeep.operations.restart import Restarted as Restarted
    from facekeep.operations.rotate_templates import Estimate as Estimate, Resealed as Resealed
    from facekeep.operations.rotate_templates import Selection as Selection
    from facekeep.operations.rotation import Rotated as Rotated, Why as Why
    from facekeep.operations.scrub import Repair as Repair, ScrubReport as ScrubReport
    from facekeep.operations.settings import SettingsChange as SettingsChange
    from facekeep.operations.status import GrantInfo as GrantInfo, SubjectInfo as SubjectInfo
    from facekeep.operations.transfer import RestoreReport as RestoreReport
    from facekeep.vault import Vault as Vault

# isort: on
_NAMES: Final = {  # by module
    ".access.roles": "Role",
    ".answers": "Listing",
    ".audit.proven": "Proven ProvenGrant Root",
    ".audit.report": "Report Step Verdict",
    ".auditlog.export": "Exported",
    ".clock": "Clock",
    ".consent.consent": "Consent Notice",
    ".errors": (
        "AlreadyEnrolled Busy ClockError ConsentError Denied ErasurePending FacekeepError ForeignFile "
        "FormatError ImageError IntegrityError MissingDependency NextStep NotAllowed NotOnePerson RootError "
        "ScopeUnknown "
        "SettingsChanged StoreError SubjectUnknown TreeFull Unavailable UsageError VaultClosed VaultExists "
        "VaultNotFound WrongType"
    ),
    ".formats.bundle": "Statement",
    ".formats.canonical": "JsonObject",
    ".formats.checkpoint": "Checkpoint",
    ".formats.manifest": "Manifest",
    ".formats.matching": "Matching",
    ".formats.note": "KeyType VerifierKey",
    ".formats.opening": "Opening",
    ".formats.schedule": "Schedule",
    ".formats.settings": "Settings",
    ".formats.terms": "Scope",
    ".keys.recovery_key": "RecoveryKey",
    ".keys.secrets": "Secrets",
    ".matching.answers": "Candidate Identification Verification",
    ".matching.extractor": "Extractor",
    ".matching.gallery": "Gallery",
    ".matching.images": "ImageInput PillowImage RgbImage",
    ".matching.model": "Model",
    ".matching.raw": "raw_model",
    ".matching.threshold": "Threshold",
    ".operations.auditing": "Filter",
    ".operations.backups": "BackupCheck BackupReport",
    ".operations.check": "CheckReport Finding",
    ".operations.enrol": "Enrolment Existing",
    ".operations.erase": "Erasure",
    ".operations.estimating": "Extent",
    ".operations.fates": "Refusal Returning Staying",
    ".operations.health": "HolderState",
    ".operations.keyops": "Keys",
    ".operations.maintain": "Maintained MaintenanceStep",
    ".operations.move": "Holders Moved Planned",
    ".operations.people": "Listed",
    ".operations.probing": "Probed Tally",
    ".operations.proving": "Proof Said",
    ".operations.receipts": "GrantReceipt Receipt",
    ".operations.restart": "Restarted",
    ".operations.rotate_templates": "Estimate Resealed Selection",
    ".operations.rotation": "Rotated Why",
    ".operations.scrub": "Repair ScrubReport",
    ".operations.settings": "SettingsChange",
    ".operations.status": "GrantInfo SubjectInfo",
    ".operations.transfer": "RestoreReport",
    ".vault": "Vault",
}
# fmt: on
_PLACES: Final = {name: module for module, names in _NAMES.items() for name in names.split()}


if not TYPE_CHECKING:  # which would take it for every name there could be

    def __getattr__(name: str) -> object:
        """Load a name of the library."""
        if name not in _PLACES:
            raise AttributeError(f"module 'facekeep' has no attribute {name!r}")
        value: object = getattr(importlib.import_module(_PLACES[name], __name__), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    """Every name, loaded or not."""
    return sorted({*globals(), *_PLACES})
