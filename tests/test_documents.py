"""What the documents say of files, commands and options is so, and no private word is in them.

Read are all *.md in the root, in docs/ with its folders and in benchmarks/. A path is a word in
backticks that ends like a file of this repository or in `/`, or the target of a link. A command
begins with `python` or `torchrun` and names a script or a module; its options are looked up in the
tables of tests/cli, or, for the few that have none there, in the source of the module.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import frozen_cli

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/*.md")])
NAMES = [str(file.relative_to(ROOT)) for file in DOCUMENTS]
PACKAGES = sorted({file.parent.name for file in ROOT.glob("[a-z]*/*.py")})

# What a reader's own files are called, or those of a run or a data set.
NOT_OURS = {
    *("TrainX.py", "train_x.py", "generate_x.py", "generators/KIND.py"),
    *("checkpoints/", "provenance/", "samples/", "snapshots/", "curves.png", "log.txt", "wandb/"),
    *("profile/", "checkpoints/step-N/", "hash.txt", "wandb_url.txt"),
    *("samples/tree-STEP.png", "features/", "grid.png", "sheet.png"),
    *("grid-0-99.png", "tensorboard/"),
    *("words.txt", "val_annotations.txt", "00000/img00000000.png", "./"),
}
# Words that name a variant of code only to those who wrote it. LAB is a colour space, in capitals.
PRIVATE = re.compile(r"\b[Tt]he lab\b|\b[Ff]ounding\b|\b[Tt]he refactor\b|\b[Tt]he seed's\b")


def read(name: str) -> str:
    """A document, without what tables say of the originals' own commands and files."""
    text = (ROOT / name).read_text(encoding="utf-8")
    if name == "docs/from_the_originals.md":
        text = re.sub(r"^\| .*? \| ", "| ", text, flags=re.M)
    return text


def said(text: str) -> list[str]:
    """What stands between backticks, in a line or over two; fenced blocks are left out."""
    text = re.sub(r"^```.*?^```$", "", text, flags=re.S | re.M)
    return [re.sub(r"\s+", " ", word) for word in re.findall(r"`([^`]+)`", text)]


def files_and_folders() -> set[str]:
    """All of the repository, relative, folders with a slash at the end."""
    found = set()
    for path in ROOT.rglob("*"):
        relative = path.relative_to(ROOT).as_posix()
        if not any(part.startswith(".") or part == "__pycache__" for part in relative.split("/")):
            found.add(f"{relative}/" if path.is_dir() else relative)
    return found


def wrong_paths(text: str, folder: str, there: set[str]) -> list[str]:
    """Paths that a document in `folder` ("" or "docs/") names and that are not `there`.

    One with a slash inside is from the root or the document's own folder; a bare name may be that
    of any file, since tables speak of `options.py`.
    """
    new = set(re.findall(r"[Nn]ew file `([^`]+)`", text))
    bare = {re.sub(r"^.*/(?=[^/]+/?$)", "", path) for path in there}
    wrong = []
    for word in said(text):
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*(/|\.(py|md|txt|toml|cff|png))", word):
            continue
        known = word in there or folder + word in there or word in new | NOT_OURS
        if not known and ("/" in word[:-1] or word not in bare):
            wrong.append(word)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target:
            path = (ROOT / folder / target).resolve()
            if not path.exists():
                wrong.append(target)
    return wrong


def commands(text: str) -> Iterator[list[str]]:
    """Words of the commands in a document, from the script or `-m module` on; variables filled."""
    text = re.sub(r"\\\n\s*", " ", text)
    values = dict(re.findall(r'^(\w+)="([^"]*)"', text, re.M))
    fenced = [line for block in re.findall(r"^```.*?\n(.*?)^```$", text, re.S | re.M)
              for line in block.splitlines()]  # fmt: skip
    for line in [*fenced, *said(text)]:
        line = re.sub(r"\$(\w+)", lambda found: values.get(found[1], found[0]), line)
        words = re.findall(r'(?:"[^"]*"|\S)+', re.sub(r"\s#.*|[;&|)].*", "", line))
        for start, word in enumerate(words):
            after = re.search(r"\b(python3?|torchrun)\b", " ".join(words[:start]))
            alone = start == 0 and (ROOT / word).is_file()
            if word.endswith(".py") and (after or alone):
                yield words[start:]
                break
            if word == "-m" and after and len(words) > start + 1:
                yield words[start:]
                break


def options_of(target: str, module: bool, words: list[str]) -> tuple[set[str], set[str]] | None:
    """Options and presets of a script or module, - for _; None if there is no such thing."""
    name = target if module else target.removesuffix(".py").replace("/", ".")
    file = ROOT / (name.replace(".", "/") + ".py")
    package = ROOT / name.replace(".", "/") / "__main__.py"
    if not file.is_file() and not package.is_file():
        return None
    table = f"{name}.{words[0]}" if words else name
    lines = frozen_cli.read(table) or frozen_cli.read(name)
    if not lines:
        source = (file if file.is_file() else package).read_text(encoding="utf-8")
        return {"--help", *re.findall(r'"(--[\w-]+)"', source)}, set()
    options: set[str] = {"--help"}
    for line in lines:
        if line.startswith("-"):
            options.update(re.findall(r"(?:^|/)(--[\w-]+)", line.split(" | ")[0]))
    return (
        {option.replace("_", "-") for option in options},
        {found[1] for line in lines if (found := re.match(r"preset ([\w-]+):", line))},
    )


def wrong_commands(text: str) -> list[str]:
    """What is amiss in a document's commands: unknown scripts, options, presets."""
    new = set(re.findall(r"[Nn]ew file `([^`]+)`", text))
    declared = {name.replace("_", "-") for name in re.findall(r'^ *\("(--[\w-]+)", ', text, re.M)}
    wrong = []
    for words in commands(text):
        module = words[0] == "-m"
        target, rest = (words[1], words[2:]) if module else (words[0], words[1:])
        if target in new or module and target.split(".")[0] not in PACKAGES:
            continue  # pytest, pip
        known = options_of(target, module, rest)
        if known is None:
            wrong.append(f"no {target}")
            continue
        options, presets = known
        options |= declared
        for word, after in zip(rest, [*rest[1:], ""], strict=False):
            option = word.split("=")[0].replace("_", "-")
            if word.startswith("--") and option not in options:
                wrong.append(f"{target} has no {word}")
            if word == "--preset" and re.fullmatch(r"[a-z][\w-]*", after) and after not in presets:
                wrong.append(f"{target} has no preset {after}")
    return wrong


def wrong_modules(text: str) -> list[str]:
    """Dotted names in backticks that begin with a package of ours and lead nowhere."""
    wrong = []
    for word in said(text):
        if word.endswith((".json", ".jsonl", ".gz")):  # a file, such as a run's data.json
            continue
        parts = word.removesuffix("()").split(".")
        if len(parts) < 2 or parts[0] not in PACKAGES or not all(p.isidentifier() for p in parts):
            continue
        path = ROOT / parts[0]
        while len(parts) > 1 and ((path / parts[1]).is_dir() or (path / f"{parts[1]}.py").exists()):
            path = path / parts.pop(1)
        file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if len(parts) > 1 and not re.search(rf"\b{parts[1]}\b", file.read_text(encoding="utf-8")):
            wrong.append(word)
    return wrong


def private_words(text: str) -> list[str]:
    return PRIVATE.findall(re.sub(r"\s+", " ", text))


def words_of_code(source: str) -> Iterator[str]:
    """Strings (as Python joins them: help texts, docstrings, messages), comments and names."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value
    comments = []
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            comments.append(token.string.lstrip("# "))
    yield " ".join(comments)


@pytest.mark.parametrize("name", NAMES)
def test_paths_are_there(name):
    folder = name.rpartition("/")[0]
    text = read(name)
    assert not wrong_paths(text, f"{folder}/" if folder else "", files_and_folders())


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_there(name):
    assert not wrong_commands(read(name))


@pytest.mark.parametrize("name", [name for name in NAMES if name != "CHANGELOG.md"])
def test_modules_are_there(name):
    assert not wrong_modules((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", NAMES)
def test_no_private_word_in_documents(name):
    assert not private_words((ROOT / name).read_text(encoding="utf-8"))


def test_no_private_word_in_code():
    """In help texts, docstrings, messages and comments; tests included, this file not."""
    found = {}
    for file in sorted(
        [*ROOT.glob("*.py"), *(f for p in PACKAGES for f in ROOT.glob(f"{p}/**/*.py"))]
    ):
        if file == Path(__file__).resolve():
            continue
        words = [
            w
            for part in words_of_code(file.read_text(encoding="utf-8"))
            for w in private_words(part)
        ]
        if words:
            found[file.relative_to(ROOT).as_posix()] = words
    assert not found


def test_every_document_is_reached_from_the_index():
    """docs/README.md names the pages, and reference.md those of options."""
    reached: set[Path] = set()
    for page in ("README.md", "reference.md"):
        text = (ROOT / "docs" / page).read_text(encoding="utf-8")
        for target in re.findall(r"\]\(([^)#\s]+)", text):
            reached.add((ROOT / "docs" / target).resolve())
    folders = {path / name.name for path in reached if path.is_dir() for name in path.glob("*.md")}
    pages = set(ROOT.glob("docs/**/*.md")) - {ROOT / "docs" / "README.md"}
    assert not sorted(str(page.relative_to(ROOT)) for page in pages - reached - folders)


def test_what_was_measured_is_in_the_studies():
    """And what differs from the originals in the reference: how-to pages say what to do."""
    titles = {
        name: re.findall(r"^#+ (.+)$", (ROOT / name).read_text(encoding="utf-8"), re.M)
        for name in NAMES
        if name.startswith("docs/")
    }
    where = {name for name, found in titles.items() if "Differences from the originals" in found}
    assert where == {"docs/reference.md"}
    for method in ("imle", "edm2", "simclr"):
        assert titles[f"docs/{method}.md"][0].startswith("How to: ")
        assert titles[f"docs/studies/{method}.md"][0].startswith("Study: ")


def test_what_is_wrong_is_found():
    there = {"imle/", "imle/search.py", "docs/", "docs/edm2.md"}
    text = "`imle/search.py`, `search.py`, `imle/gone.py`, `gone.py`, `none/`, [x](nothing.md)"
    assert wrong_paths(text, "", there) == ["imle/gone.py", "gone.py", "none/", "nothing.md"]
    assert wrong_paths("New file `imle/mine.py`: `mine/`", "", there) == ["mine/"]
    assert wrong_paths("`edm2.md`", "docs/", there) == []

    text = """
`python train_edm2.py --preset smoke --nothing 3`,
`python gone.py`; `python toy_example.py test --mandala`
("--mine", text, None, "declared here")
```
A="--bs 4 --wrong"
python TrainSimCLR.py $A --preset none \\
    --lr-schedule google   # --comment
OMP_NUM_THREADS=1 torchrun --standalone -m benchmarks.gone --x
python -m benchmarks.augment --zzz --mine --seed "8 --no"
python -m pytest --zzz
```
"""
    assert sorted(wrong_commands(text)) == [
        "TrainSimCLR.py has no --wrong",
        "TrainSimCLR.py has no preset none",
        "benchmarks.augment has no --zzz",
        "no benchmarks.gone",
        "no gone.py",
        "train_edm2.py has no --nothing",
    ]
    assert wrong_modules("`imle.search`, `imle.search.CodeSearch`, `torch.nn`") == []
    assert wrong_modules("`imle.gone`, `imle.search.Gone`") == ["imle.gone", "imle.search.Gone"]


@pytest.mark.parametrize("words", ["as the lab\ndoes", "The founding code", "the seed's rule"])
def test_private_words_are_found(words):
    assert private_words(words)
    help_text = "".join(f" {word!r} '  '\n" for word in words.split())  # joined by Python
    assert any(private_words(part) for part in words_of_code(f"x = ({help_text})"))
    assert any(private_words(part) for part in words_of_code(f"# {words.replace(chr(10), ' ')}\n"))
    assert not private_words("the seed of an image, CIE LAB, the CIMLE refactoring, IMLE Lab")
