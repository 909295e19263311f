"""What the documents say about the command is what it does."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from cli_help import Cli, vector
from facekeep import errors
from facekeep.access.roles import ALLOWED, Action, Role
from facekeep.cli import problems
from facekeep.cli.app import root
from facekeep.cli.manifest import KEYS
from facekeep.cli.registry import COMMANDS
from facekeep.formats.settings import Settings
from facekeep.matching.images import ImageInput
from facekeep.matching.model import Floats, Model
from facekeep.vault import Vault

ROOT = Path(__file__).resolve().parent.parent
GUIDE = (ROOT / "docs" / "integrator.md").read_text()
README = (ROOT / "README.md").read_text()
EXAMPLE = (ROOT / "keys.example").read_text()


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command that does something, by the section that documents it."""
    context = click.Context(root)
    for name in COMMANDS:
        command = root.get_command(context, name)
        assert command is not None
        yield from ((name, each) for each in below(command))


def below(command: click.Command) -> Iterator[click.Command]:
    """A command, and all commands of its group."""
    yield command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            assert inner is not None
            yield from below(inner)


def section(title: str, level: str = "###") -> str:
    found = re.search(rf"^{level} {re.escape(title)}$(.*?)(?=^##|\Z)", GUIDE, re.MULTILINE | re.DOTALL)
    assert found, title
    return found[1]


def table(text: str) -> list[list[str]]:
    """Cells of a Markdown table without its head, code marks removed."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.parametrize(
    ("name", "command"), list(commands()), ids=lambda value: getattr(value, "name", value)
)
def test_every_command_and_option_is_documented(name: str, command: click.Command) -> None:
    text = section(f"facekeep {name}")
    assert command.name
    assert command.name in text or command.name == name
    general = GUIDE.split("### facekeep init")[0]
    for parameter in command.params:
        for spelling in parameter.opts:
            if spelling.startswith("--") and spelling not in {"--vault", "--json", "--token-file"}:
                assert re.search(rf"{spelling}\b", text), f"{name}: {spelling}"
            elif spelling.startswith("--"):
                assert spelling in general


def test_no_option_is_documented_that_does_not_exist() -> None:
    real = {spelling for _, command in commands() for option in command.params for spelling in option.opts}
    real |= {spelling for option in root.params for spelling in option.opts} | {"--help"}
    real |= {"--require-hashes", "--no-deps", "--no-build-isolation", "--upgrade"}  # pip's and uv's
    for text in (GUIDE, README, EXAMPLE):
        assert set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) <= real


def test_the_roles_table_is_the_codes() -> None:
    rows = table(section("Roles", "##"))
    head = re.search(r"^\| action \|(.*)\|$", GUIDE, re.MULTILINE)
    assert head
    roles = [Role(word.strip()) for word in head[1].split("|")]
    assert {row[0] for row in rows} == {action.value for action in Action}
    for action, *marks in rows:
        assert {role for role, mark in zip(roles, marks, strict=True) if mark == "yes"} == {
            role for role in Role if Action(action) in ALLOWED[role]
        }


def classes(parent: type[errors.FacekeepError]) -> Iterator[type[errors.FacekeepError]]:
    yield parent
    for child in parent.__subclasses__():
        yield from classes(child)


def test_the_exit_codes_table_is_the_codes() -> None:
    stated = {(int(row[0]), row[1]) for row in table(section("Exit codes", "##"))}
    real = {(each.exit_code, each.code) for each in classes(errors.FacekeepError)}
    real |= {
        (0, ""),
        (1, ""),
        (problems.COMMAND_LINE, "command_line"),
        (problems.PARTLY_DONE, ""),
        (problems.INTERNAL, "internal"),
        (problems.INTERRUPTED, "interrupted"),
        (problems.BROKEN_PIPE, ""),
    }
    assert stated == real


def test_the_table_of_classes_is_the_codes() -> None:
    text = section("From Python", "##")
    rows = table(text[text.index("| class | code | kind of |") :].split("\n\n")[0])
    own = [each for each in classes(errors.FacekeepError) if each.__module__ == errors.__name__]
    assert sorted(rows) == sorted([each.__name__, each.code, each.__bases__[0].__name__] for each in own)


def test_the_manifests_table_has_its_keys() -> None:
    rows = table(section("Bulk enrolment", "##"))
    assert {key for row in rows for key in re.findall(r"[a-z_]+", row[0])} == KEYS


def test_keys_example_is_a_vault_toml() -> None:
    settings = Settings.decode(EXAMPLE)
    assert settings.root_uri.startswith("file:")
    assert settings.copies
    bare = [line.split(" #")[0] for line in EXAMPLE.splitlines() if line and not line.startswith("#")]
    written = [line for line in settings.encode().splitlines() if line and not line.startswith("#")]
    assert bare == written


# The examples run


class ByFirstLetter:
    """An extractor that knows people by the first letter of a file's or folder's name; the door shows Ada."""

    model = Model("dlib-resnet", "1", 128, "l2")

    def extract(self, image: ImageInput) -> Floats:
        name = Path(str(image)).name.replace("door", "ada")
        row = vector(ord(name[0]))
        return row.repeat(8)


@pytest.fixture
def cli(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cli:
    found = Cli(tmp_path, monkeypatch, made=False)
    monkeypatch.setattr(Vault, "extractor", ByFirstLetter())
    Path("notice.pdf").write_text("notice")
    Path("keys").mkdir(mode=0o700)
    Path("safe").mkdir(mode=0o700)
    (tmp_path / "people" / "zoe").mkdir(parents=True)
    for name in ("ada-1.jpg", "ada-2.jpg", "door.jpg", "people/zoe/z.jpg"):
        Path(name).write_text("a photograph")
    return found


def here(text: str, home: Path) -> str:
    """Return an example with its disks in the home of the test."""
    return text.replace("/mnt/", f"{home}/")


@pytest.mark.parametrize("text", [README, GUIDE], ids=["README", "guide"])
def test_the_python_example_runs(cli: Cli, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    block = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert block
    exec(compile(here(block[1], cli.home), "example", "exec"), {})  # noqa: S102 - our own words
    assert capsys.readouterr().out.startswith("True\n")


@pytest.mark.parametrize("text", [README, GUIDE], ids=["README", "guide"])
def test_the_shell_example_runs(cli: Cli, text: str) -> None:
    start = text.index("## From the shell" if text is README else "## The first hour")
    lines = text[start : text.index("\n## ", start + 5)].splitlines()
    words = [line.strip() for line in lines if line.startswith("    facekeep ") and " demo" not in line]
    assert len(words) > 2
    for line in words:
        ran = cli.run(*shlex.split(here(line, cli.home), comments=True)[1:])
        assert ran.code == 0, (line, ran)
    assert ("ada" in cli.subjects()) == (text is GUIDE)
