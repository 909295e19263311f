"""Shredding proofs: every step can break, and names itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from auditlog_help import FINGERPRINT, NOW, genesis
from facekeep.audit.bundle import PROOF_STEPS, verify
from facekeep.audit.report import RuleBroken, Verdict
from facekeep.audit.watch import WATCH_STEPS
from facekeep.errors import FormatError, UsageError
from facekeep.formats import canonical, entries
from facekeep.formats.bundle import (
    MAX_BYTES,
    NOT_PROVED,
    ShreddingProof,
    Statement,
)
from facekeep.formats.canonical import JsonObject
from facekeep.formats.note import KeyType
from facekeep.formats.opening import Opening, parse_tag
from facekeep.operations.probing import PROBE_STEPS
from proof_help import (
    COMPLETION,
    ERASURE,
    IDENTIFY_SLOT,
    KEYS,
    OPENING,
    OTHER,
    OTHER_SLOT,
    RECEIPT,
    TAG,
    VERIFY_SLOT,
    broken,
    destroy,
    destroyed,
    forge,
    grant,
    granted,
    item,
    proven,
    story,
)
from tree_help import OTHER_VAULT, altered, signer

Changed = Callable[[dict[str, Any]], object]


def changed(change: Changed) -> bytes:
    """Return the honest bundle with a change that keeps it canonical JSON."""
    value: dict[str, Any] = json.loads(forge(story()))
    change(value)
    return canonical.dumps(value)


def test_an_honest_proof_holds() -> None:
    found = proven(forge(story()), opening=OPENING)
    assert [step.id for step in found.report.steps] == list(PROOF_STEPS)
    assert {step.verdict for step in found.report.steps[:12]} == {Verdict.HOLDS}
    assert found.report.steps[12].verdict is Verdict.NOT_JUDGED
    assert (found.subject, found.complete, found.op) == ("ada", False, "shred")
    assert (found.erasure, found.completion) == (ERASURE, COMPLETION)
    assert [grant.slot for grant in found.grants] == [VERIFY_SLOT, IDENTIFY_SLOT]
    assert (found.before.epoch, found.before.fingerprint, found.after.epoch) == (1, FINGERPRINT, 2)
    assert set(found.not_proved()) == {*NOT_PROVED, "keys_in_force"} - {"whose_tag"}
    assert json.dumps(found.to_json())


def test_verdicts_are_told_as_they_fall() -> None:
    told: list[str] = []
    proven(forge(story()), on_step=lambda step: told.append(step.id))
    assert told == list(PROOF_STEPS)


def test_the_first_broken_step_ends_it_and_the_rest_is_not_judged() -> None:
    with pytest.raises(RuleBroken) as caught:
        proven(changed(lambda value: value["entries"][1]["entry"].update(time_ms=5)))
    assert caught.value.rule == "P3"
    assert caught.value.exit_code == 33
    assert caught.value.report is not None
    assert [str(step.verdict) for step in caught.value.report.steps] == [
        *("holds",) * 2,
        "broken",
        *("not judged",) * 10,
    ]


def test_no_altered_byte_goes_by() -> None:
    data = forge(story())
    steps = {broken(other) for other in altered(data, 23)}
    assert "none" not in steps
    assert {"P1", "P2", "P3", "P11"} <= steps


@pytest.mark.parametrize(
    ("change", "step"),
    [
        (lambda value: value.update(v=2), "P1"),
        (lambda value: value.update(type="facekeep/other"), "P1"),
        (lambda value: value.update(more=1), "P1"),
        (lambda value: value.pop("made_ms"), "P1"),
        (lambda value: value.pop("scopes"), "P1"),
        (lambda value: value.update(scopes=["verify"]), "P1"),
        (lambda value: value["not_proved"].remove("kept_keys"), "P1"),
        (lambda value: value["not_proved"].append("zest"), "P1"),
        (lambda value: value["not_proved"].reverse(), "P1"),
        (lambda value: value["statement"]["sanitization"].update(method="Destroy"), "P1"),
        (lambda value: value["statement"]["sanitization"].update(role=""), "P1"),
        (lambda value: value["statement"]["sanitization"].update(role="a\nb"), "P1"),
        (lambda value: value["statement"]["sanitization"].update(role="x" * 201), "P1"),
        (lambda value: value["statement"]["copies"].update(live=True), "P1"),
        (lambda value: value["entries"].reverse(), "P1"),
        (lambda value: value["entries"].append(value["entries"][-1]), "P1"),
        (lambda value: value["entries"].clear(), "P1"),
        (lambda value: value["entries"][1].update(extra=None), "P1"),
        (lambda value: value["entries"][1]["entry"].update(op="steal"), "P1"),
        (lambda value: value["signatures"].pop(), "P1"),
        (lambda value: value.update(checkpoint=value["checkpoint"].replace("\n", "\r\n")), "P1"),
        (lambda value: value.update(checkpoint=value["checkpoint"].replace("\n5\n", "\n05\n")), "P2"),
        (lambda value: value.update(checkpoint=value["checkpoint"].replace("\n5\n", "\n6\n")), "P2"),
        (lambda value: value.update(vault=OTHER_VAULT.hex()), "P2"),
        (lambda value: value["entries"][2].update(index=2), "P3"),
        (lambda value: value["entries"][3].update(index=99), "P3"),
        (lambda value: value["entries"][1]["proof"].pop(), "P3"),
        (lambda value: value["entries"][1]["proof"].append(value["entries"][1]["proof"][0]), "P3"),
        (lambda value: value["entries"][3]["entry"].update(epoch=9), "P3"),
        (lambda value: value.update(erasure=1), "P5"),
        (lambda value: value.update(tag=OTHER.hex()), "P5"),
        (lambda value: value.update(made_ms=1), "P11"),
        (lambda value: value["statement"]["sanitization"].update(role="nobody"), "P11"),
        (lambda value: value["statement"]["copies"].update(backups=7), "P11"),
        (lambda value: value["signatures"].__setitem__(0, "A" * 86 + "=="), "P11"),
    ],
)  # fmt: skip
def test_a_change_anywhere_names_its_step(change: Changed, step: str) -> None:
    assert broken(changed(change)) == step


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data + b"\n",
        lambda data: b" " + data,
        lambda data: data.replace(b",", b", ", 1),
        lambda data: data.replace(b":", b":\r\n", 1),
        lambda data: data[:-1],
        lambda _: b"",
        lambda _: b"[]",
        lambda _: b"{" * 100_000,
        lambda _: b"\xff",
        lambda data: b" " * (MAX_BYTES + 1 - len(data)) + data,
    ],
)
def test_other_spellings_are_refused(spoil: Callable[[bytes], bytes]) -> None:
    assert broken(spoil(forge(story()))) == "P1"


def test_a_proof_of_another_vault() -> None:
    with pytest.raises(RuleBroken, match=r"P2.*no key is known"):
        verify(forge(story()), signer(vault=OTHER_VAULT).keys)


def test_keys_of_another_generation() -> None:
    with pytest.raises(RuleBroken, match="P2"):
        verify(forge(story()), signer(2).keys)


def test_one_key_of_two_is_enough_and_both_are_looked_at_when_given() -> None:
    data = forge(story())
    for kind in (KeyType.ED25519, KeyType.COSIGNATURE_ML_DSA_44):
        assert verify(data, [key for key in KEYS if key.type is kind]).tag == TAG
    forged = changed(lambda value: value["signatures"].__setitem__(1, "A" * 3224 + "AAA="))
    assert broken(forged) == "P11"


def test_a_log_that_begins_as_another_vaults() -> None:
    log = story()
    log[0] = entries.genesis(
        vault_id=OTHER_VAULT,
        epoch=1,
        fingerprint=FINGERPRINT,
        provider_class="erasing",
        scheme="file",
        settings_digest=b"s" * 32,
        time_ms=NOW,
    )
    assert broken(forge(log)) == "P4"
    assert broken(forge(story(), (1, 3, 4))) == "P4"


def test_a_checkpoint_older_than_the_erasure() -> None:
    with pytest.raises(RuleBroken, match="P3: log entry 3 is not yet in the checkpoint"):
        proven(forge(story(), size=3))


def test_an_erasure_of_somebody_else() -> None:
    log = story()
    log[ERASURE] = destroy(VERIFY_SLOT, IDENTIFY_SLOT, tags=(OTHER,))
    assert broken(forge(log)) == "P5"


def test_an_erasure_that_was_announced_and_not_done() -> None:
    assert broken(forge(story(), (0, 1, 3))) == "P6"
    log = [*story()[:3], destroyed(4), destroy(VERIFY_SLOT, IDENTIFY_SLOT)]
    assert broken(forge(log, (0, 1, 3, 4), erasure=4)) == "P6"


def test_a_completion_without_a_receipt_for_the_root_destroyed() -> None:
    for receipts in ((), (RECEIPT | {"action": "promoted"},)):
        log = [*story()[:4], destroyed(ERASURE, receipts=receipts)]
        assert broken(forge(log)) == "P6"


@pytest.mark.parametrize(
    "completion",
    [
        destroyed(ERASURE, previous=b"?" * 32),
        destroyed(ERASURE, fingerprint=FINGERPRINT),
        destroyed(ERASURE, epoch=1),
    ],
)
def test_a_root_that_was_not_replaced(completion: JsonObject) -> None:
    assert broken(forge([*story()[:4], completion])) == "P7"


def test_an_erasure_without_all_its_slots() -> None:
    log = [*story()[:3], destroy(VERIFY_SLOT), destroyed(ERASURE)]
    with pytest.raises(RuleBroken, match=f"P9: slot {IDENTIFY_SLOT} of log entry 1 has no completed"):
        proven(forge(log))


def test_a_slot_whose_own_destruction_is_not_completed() -> None:
    log = [
        *story()[:3],
        destroy(VERIFY_SLOT, op="withdraw", tags=()),
        destroy(IDENTIFY_SLOT),
        destroyed(4),
    ]
    assert broken(forge(log, (0, 1, 3, 4, 5), erasure=4)) == "P9"


def test_a_slot_destroyed_before_it_was_granted() -> None:
    log = [story()[0], destroy(VERIFY_SLOT, IDENTIFY_SLOT), destroyed(1), story()[1]]
    assert broken(forge(log, range(4), erasure=1)) == "P8"


def test_earlier_destructions_count() -> None:
    log = [
        *story()[:3],
        destroy(VERIFY_SLOT, op="withdraw", tags=()),
        destroyed(3),
        destroy(IDENTIFY_SLOT),
        destroyed(5, epoch=3, previous=b"g" * 32, fingerprint=b"h" * 32),
    ]
    found = proven(forge(log, (0, 1, 3, 4, 5, 6), erasure=5))
    assert [grant.ended_op for grant in found.grants] == ["withdraw", "shred"]
    assert found.before.epoch == 2


def test_the_withdrawal_of_everything_is_an_erasure() -> None:
    log = [*story()[:3], destroy(VERIFY_SLOT, IDENTIFY_SLOT, op="withdraw", tags=()), destroyed(3)]
    assert proven(forge(log)).op == "withdraw"
    log = [
        *story()[:3],
        destroy(VERIFY_SLOT, IDENTIFY_SLOT, op="withdraw", tags=()),
        destroyed(3),
        destroy(OTHER_SLOT, op="withdraw", tags=()),
        destroyed(5, epoch=3, previous=b"g" * 32, fingerprint=b"h" * 32),
    ]
    assert broken(forge(log, (0, 1, 3, 4, 5, 6), erasure=5)) == "P9"


@pytest.mark.parametrize("op", ["withdraw", "shred", "expire", "renew"])
def test_an_erasure_is_dated_back_to_a_withdrawal_that_left_something(op: str) -> None:
    """Ada was searched for until entry 6, whatever the bundle calls her erasure."""
    tags = (TAG,) if op == "shred" else ()
    log = [
        *story()[:3],
        destroy(VERIFY_SLOT, op="withdraw", tags=()),
        destroyed(3),
        destroy(IDENTIFY_SLOT, op=op, tags=tags),
        destroyed(5, epoch=3, previous=b"g" * 32, fingerprint=b"h" * 32),
    ]
    assert broken(forge(log, (0, 1, 3, 4, 5, 6), erasure=3)) == "P9"
    assert broken(forge(log, (0, 1, 3, 4, 5, 6), erasure=5)) == "none"


def test_an_erasure_that_ends_after_another_begun_later_may_be_either() -> None:
    """What counts is when the last key was gone."""
    log = [
        *story()[:3],
        destroy(VERIFY_SLOT, op="withdraw", tags=()),
        destroy(IDENTIFY_SLOT, op="withdraw", tags=()),
        destroyed(4),
        destroyed(3, epoch=3, previous=b"g" * 32, fingerprint=b"h" * 32),
    ]
    assert broken(forge(log, (0, 1, 3, 4, 5, 6), erasure=3)) == "none"
    assert broken(forge(log, (0, 1, 3, 4, 5, 6), erasure=4)) == "P9"


def test_a_bundle_without_any_grant_of_the_subject() -> None:
    assert broken(forge(story(), (0, 3, 4))) == "P8"


def test_a_grant_after_the_erasure() -> None:
    log = [*story(), grant(item(VERIFY_SLOT + 7))]
    assert broken(forge(log, (0, 1, 3, 4, 5))) == "P8"


def test_terms_that_are_none() -> None:
    log = story()
    log[1] = grant(item(VERIFY_SLOT, terms=b"z" * 88), item(IDENTIFY_SLOT))
    assert broken(forge(log)) == "P8"


def test_a_slot_granted_twice() -> None:
    log = [story()[0], grant(item(VERIFY_SLOT)), grant(item(VERIFY_SLOT)), *story()[3:]]
    assert broken(forge(log, range(5))) == "P8"


def test_padding_is_refused() -> None:
    assert broken(forge(story(), range(5))) == "P10"


def test_a_grant_left_out_is_not_noticed_and_the_proof_says_so() -> None:
    log = [*story()[:3], *story()[1:2], *story()[3:]]
    log[3] = grant(item(VERIFY_SLOT + 5))
    log[5] = destroyed(4)
    found = proven(forge(log, (0, 1, 4, 5), erasure=4))
    assert "all_grants" in found.not_proved()


def test_an_opening_of_another_person() -> None:
    data = forge(story())
    assert broken(data, opening=OPENING) == "none"
    for wrong in (
        Opening(TAG, OPENING.salt, "eve"),
        Opening(TAG, b"t" * 32, "ada"),
        Opening(TAG, OPENING.salt, "ada "),
        Opening(TAG, OPENING.salt, ""),
    ):
        assert broken(data, opening=wrong) == "P12"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"subject":1,"salt":"","tag":""}',
        b'{"subject":"ada","salt":"00","tag":"' + b"0" * 64 + b'"}',
        b" " * 300_000,
    ],
)
def test_a_receipt_that_is_none(data: bytes) -> None:
    with pytest.raises(UsageError):
        Opening.parse(data)
    with pytest.raises(UsageError):
        parse_tag(data.replace(b'"tag"', b'"gat"'))


def test_a_receipt_is_read_with_whatever_else_it_holds() -> None:
    data = json.dumps(OPENING.to_json() | {"grants": [1.5], "skipped": []}, indent=2).encode()
    assert Opening.parse(data) == OPENING
    assert parse_tag(data) == TAG
    assert "ada" not in repr(OPENING)


def test_a_bundle_is_not_written_unsigned_or_over_the_limit() -> None:
    bundle = ShreddingProof.parse(forge(story()))
    with pytest.raises(FormatError, match="signature"):
        bundle.signed(()).encode()
    with pytest.raises(FormatError):
        Statement.from_json(Statement("0.1.0", role="r" * 201).to_json())
    assert ShreddingProof.parse(bundle.encode()) == bundle


def test_a_grant_and_its_destruction_are_taken_out_of_a_signed_proof() -> None:
    """What stands at an index the checkpoint says; which indices there are, the signature."""
    log = [
        genesis(),
        grant(item(VERIFY_SLOT)),
        granted(1),
        grant(item(IDENTIFY_SLOT)),
        granted(3),
        destroy(IDENTIFY_SLOT, op="withdraw", tags=()),
        destroyed(5),
        destroy(VERIFY_SLOT),
        destroyed(7, epoch=3, previous=b"g" * 32, fingerprint=b"h" * 32),
    ]
    whole = forge(log, (0, 1, 3, 5, 6, 7, 8), erasure=7)
    assert broken(whole) == "none"
    assert broken(forge(log, (0, 1, 6, 7, 8), erasure=7)) == "none"  # all_grants is not proved, and is said
    value = json.loads(whole)
    value["entries"] = [each for each in value["entries"] if each["index"] not in (3, 5)]
    assert broken(canonical.dumps(value)) == "P11"


def test_both_are_said_by_the_same_words_in_the_specification() -> None:
    spec = Path(__file__).parent.parent / "docs" / "spec"
    text = "".join((spec / name).read_text() for name in ("log.md", "vault.md"))
    for key, words in {**PROOF_STEPS, **WATCH_STEPS, **PROBE_STEPS}.items():
        assert f"| {key} | {words} |" in text
    for word, sentence in NOT_PROVED.items():
        assert f"| `{word}` | {sentence} |" in text


def test_every_step_is_tagged_in_the_code() -> None:
    source = Path(__file__).parent.parent / "src/facekeep"
    for module, section, count in (
        ("audit/bundle.py", "12.3", 13),
        ("audit/watch.py", "12.5", 6),
        ("operations/probing.py", "12.7", 5),
    ):
        text = (source / module).read_text()
        assert all(f"# SPEC §{section} step {number}\n" in text for number in range(1, count + 1))
