"""Attacks with a region of the caller's making: the settings say where a vault's templates are processed."""

from __future__ import annotations

from pathlib import Path

import pytest

from audit_help import ALICE, OPERATOR, Book, expect, founded, honest, i, item, v
from facekeep.audit.replay import replay
from facekeep.errors import Denied, FormatError, IntegrityError, UsageError
from facekeep.formats import entries
from facekeep.formats.settings import Settings
from facekeep.vault import Role, Vault
from vaultlab import (
    IDENTIFY,
    MODEL,
    THRESHOLD,
    Lab,
    core,
    face,
    held,
    identify,
    log_entries,
    matches,
    reason,
)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    """A vault in the US, and a person who consented to Germany."""
    lab = Lab(tmp_path).create()
    lab.enrol("alice", regions=("DE",))
    lab.do(lambda vault: vault.change_settings(region="US"))
    return lab


def asked(vault: Vault, region: str) -> list[str]:
    """Reasons for which each way to ask in a region is refused."""
    ways = (
        lambda: vault.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD, region=region),
        lambda: vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD, region=region),
        lambda: vault.gallery(model=MODEL, region=region),
    )
    reasons = []
    for ask in ways:
        size = core(vault).log.head().size
        with pytest.raises(Denied):
            ask()
        (entry,) = log_entries(vault)[size:]
        assert (entry["allow"], entry["region"]) == (False, region)
        reasons.append(str(entry["reason"]))
    return reasons


@pytest.mark.parametrize("region", ["DE", "FR", "EU", "ZZ"])
def test_a_service_cannot_say_that_it_is_elsewhere(lab: Lab, region: str) -> None:
    with lab.open(lab.add_principal(Role.SERVICE)) as vault:
        assert asked(vault, region) == ["region"] * 3
        assert reason(vault, "alice") == reason(vault, "alice", region="US") == "region"


def test_the_first_principal_cannot_either(lab: Lab) -> None:
    with lab.open() as vault:
        assert asked(vault, "DE") == ["region"] * 3


def test_the_vaults_own_region_may_be_said_and_is_the_default(lab: Lab) -> None:
    with lab.open() as vault:
        vault.change_settings(region="DE")
        assert reason(vault, "alice") == reason(vault, "alice", region="DE") == "ok"
        assert identify(vault, "alice") == ["alice"]


def test_a_further_region_is_believed_until_it_is_taken_away(lab: Lab) -> None:
    with lab.open() as vault:
        done = vault.change_settings(regions=["FR", "DE", "FR"])
        assert done.settings.regions == ("DE", "FR")
        assert log_entries(vault)[-1]["type"] == "settings"
        assert reason(vault, "alice", region="DE") == "ok"
        assert reason(vault, "alice", region="FR") == "region"  # her consent is for Germany
        assert vault.change_settings(regions=["DE", "FR"]).entry is None
        vault.change_settings(regions=[])
        assert asked(vault, "DE") == ["region"] * 3
    lab.clean()


def test_a_gallery_that_is_open_does_not_outlive_its_region(lab: Lab) -> None:
    with lab.open() as vault:
        vault.change_settings(regions=["DE"])
        with (
            lab.open(lab.add_principal(Role.SERVICE)) as door,
            door.gallery(model=MODEL, region="DE") as gallery,
        ):
            assert gallery.search(face("alice"), THRESHOLD, 5).compared == 1
            vault.change_settings(regions=[])
            with pytest.raises(Denied):
                gallery.search(face("alice"), THRESHOLD, 5)
            assert held(gallery) == 0
            with pytest.raises(Denied):
                door.verify("alice", face("alice"), model=MODEL, threshold=THRESHOLD, region="DE")


def test_a_region_that_is_written_into_the_settings_by_hand(lab: Lab) -> None:
    file = lab.path / "vault.toml"
    file.write_text(file.read_text().replace('region = "US"\n', 'region = "US"\nregions = ["DE"]\n'))
    assert Settings.decode(file.read_text()).regions == ("DE",)
    with pytest.raises(IntegrityError):
        Vault.open(lab.path, token=lab.token, clock=lab.clock)


def test_a_settings_file_of_an_earlier_day_with_a_region_more(lab: Lab) -> None:
    lab.do(lambda vault: vault.change_settings(regions=["DE"]))
    before = (lab.path / "vault.toml").read_text()
    lab.do(lambda vault: vault.change_settings(regions=[]))
    (lab.path / "vault.toml").write_text(before)
    with pytest.raises(IntegrityError):
        Vault.open(lab.path, token=lab.token, clock=lab.clock)


def test_a_refused_region_says_nothing_of_a_person(lab: Lab) -> None:
    """The same answer for the enrolled and for nobody, and no pseudonym in the log: nobody was looked up."""
    with lab.open() as vault:
        for name in ("alice", "nobody"):
            with pytest.raises(Denied) as caught:
                vault.verify(name, face(name), model=MODEL, threshold=THRESHOLD, region="DE")
            entry = log_entries(vault)[-1]
            assert (str(caught.value), entry["reason"], entry.get("tag")) == ("denied", "region", None)


@pytest.mark.parametrize("regions", [["US"], ["de"], ["DEU"], [""], [f"A{chr(65 + n)}" for n in range(17)]])
def test_regions_that_cannot_be_are_refused_with_nothing_changed(lab: Lab, regions: list[str]) -> None:
    with lab.open() as vault:
        size, text = core(vault).log.head().size, (lab.path / "vault.toml").read_text()
        with pytest.raises(UsageError):
            vault.change_settings(regions=regions)
        assert (core(vault).log.head().size, (lab.path / "vault.toml").read_text()) == (size, text)
        assert vault.region == "US"


@pytest.mark.parametrize(
    "line",
    [
        "regions = []",
        'regions = ["FR", "DE"]',
        'regions = ["DE", "DE"]',
        'regions = ["US"]',
        'regions = "DE"',
    ],
)
def test_a_list_of_regions_has_one_form(lab: Lab, line: str) -> None:
    text = (lab.path / "vault.toml").read_text()
    with pytest.raises(FormatError):
        Settings.decode(text.replace('region = "US"\n', f'region = "US"\n{line}\n'))


def test_without_further_regions_the_file_and_its_digest_do_not_name_them() -> None:
    plain = Settings(bytes(16), "file:x", (), "DE")
    assert "regions" not in plain.encode()
    assert "regions" not in str(plain.document())
    further = Settings(bytes(16), "file:x", (), "DE", regions=("CH", "FR"))
    assert Settings.decode(further.encode()) == further
    assert further.digest() != plain.digest()


def test_enrolling_is_not_bound_to_the_vaults_region(lab: Lab) -> None:
    """What a person consented to is theirs to say; it opens nothing where the vault does not run."""
    lab.enrol("bob", scopes=[IDENTIFY], regions=("JP", "US"))
    with lab.open() as vault:
        assert identify(vault, "bob") == ["bob"]
        with pytest.raises(Denied):
            matches(vault, "alice")


# -- what an auditor sees of it


def regional(*regions: str) -> Book:
    """A vault whose genesis names regions, and a person who consented to Germany."""
    book = founded()
    book.entries[0]["regions"] = list(regions)
    book.grant("enroll", item(v(0), ALICE), item(i(0), ALICE))
    return book


def test_the_log_names_the_regions_from_the_first_entry_on(lab: Lab) -> None:
    with lab.open() as vault:
        vault.change_settings(regions=["DE"])
        named = [each["regions"] for each in log_entries(vault) if each["type"] in ("genesis", "settings")]
        assert named == [["DE"], ["US"], ["DE", "US"]]
        assert reason(vault, "alice", region="DE") == "ok"
        assert vault.identify(face("alice"), model=MODEL, threshold=THRESHOLD, region="DE").candidates
        replay(map(entries.encode, log_entries(vault)))


def test_a_decision_in_another_region_than_the_settings_is_found() -> None:
    honest(with_decisions(regional("DE", "FR")))
    book = regional("FR", "US")
    index = book.verify(v(0), ALICE)
    expect(book.bodies(), "R37", index)


def with_decisions(book: Book) -> Book:
    book.verify(v(0), ALICE)
    book.identify(i(0))
    return book


def test_a_search_in_another_region_than_the_settings_is_found() -> None:
    book = regional("FR")
    index = book.identify(i(0))
    expect(book.bodies(), "R37", index)


def test_a_region_that_was_taken_away_is_found_from_that_entry_on() -> None:
    book = with_decisions(regional("DE"))
    book.add(entries.settings(b"s" * 32, bytes(32), by=OPERATOR, time_ms=book.now, regions=["US"]))
    book.add(entries.settings(b"t" * 32, b"s" * 32, by=OPERATOR, time_ms=book.now))  # a move: they stay
    index = book.verify(v(0), ALICE)
    expect(book.bodies(), "R37", index)


def test_a_log_that_names_no_regions_is_held_to_none() -> None:
    book = founded()
    book.grant("enroll", item(v(0), ALICE), item(i(0), ALICE))
    honest(with_decisions(book))


@pytest.mark.parametrize("regions", [[], ["FR", "DE"], ["DE", "DE"], ["de"], "DE", None, ["DE"] * 20])
def test_regions_of_an_entry_have_one_form(regions: object) -> None:
    entry = founded().entries[0] | {"regions": regions}
    with pytest.raises(FormatError):
        entries.validate(entry)
