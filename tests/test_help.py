"""What every script's --help says, and the pages of docs/options/, which say the same."""

import ast
import re

import pytest

from runtime.options import FIRST_GROUPS, LAST_GROUPS
from tests import frozen_cli, option_pages
from tests.test_documents import commands, private_words

TRAINING = (
    "TrainGeneratorWandB",
    "TrainSimCLR",
    "TrainISICLE",
    "train_edm2",
    "train_ddpm",
    "toy_example",
)
# One thing has one name: what is not to be shown, and what it is called.
OTHER_NAMES = {
    "--data_tr": "--data", "--out": "--outdir", "--run-dir": "--outdir", "--run_dir": "--outdir",
    "--device": "--gpus", "--batch_size": "--bs", "--batch-size": "--bs", "--mini_bs": "--bs_gpu",
    "--batch-gpu": "--bs_gpu", "--gnet": "--guide", "--guide-path": "--guide", "--net-path":
    "--net", "--snapshot": "--net", "--workers": "--num_workers", "--max-images": "--num_images",
    "--wd": "--weight_decay", "--spi": "--samples", "--n_samples": "--samples", "--learning_rate":
    "--lr", "--size": "--crop_size", "--save_iter": "--snapshot_every",
}  # fmt: skip
# A file, not a folder; a tree of links beside the data; the pixels of a sheet.
ELSEWHERE = {
    ("convert", "--out"),  # a file
    ("data.InvertDirStructure", "--out"),
    ("data.process_data", "--out"),
    ("data.scenes", "--out"),
    ("data.scenes", "--size"),
}


@pytest.fixture(scope="module")
def found():
    return option_pages.capture()


def options(found):
    for fact in found:
        for option in fact["options"]:
            yield fact, option


def test_every_command_speaks_alike(found):
    assert {fact["name"].split(".encode")[0] for fact in found} >= set(option_pages.COMMANDS)
    assert [fact["name"] for fact in found if not fact["speaks"]] == []


def test_every_option_says_what_it_is_and_its_default(found):
    silent = [
        f"{fact['prog']} {option['name']}: {option['help']!r} {option['default']!r}"
        for fact, option in options(found)
        if not option["help"].split(" (")[0].strip()
        or not re.search(r"default:|\(required", option["help"] + option["default"])
    ]
    assert silent == []


def test_every_value_is_called_what_it_is(found):
    kinds = r"N|FLOAT|FILE|DIR|NAME|ID|TEXT|TIME|URL|HEX|WxH|OPTIONS|PATH|ZIP|SPLIT|cpu|auto|none"
    kinds += "|NAME=VALUE|DIR=KEY"
    odd = [
        f"{fact['prog']} {option['name']}"
        for fact, option in options(found)
        for word in re.sub(r"\{[^}]*\}|\[|\]|\.\.\.", " ", option["value"]).split()
        if not re.fullmatch(rf"({kinds}|[a-z]+)([|:-]({kinds}|[a-z]+))*|Ki\|Mi\|Gi", word)
    ]
    assert odd == []


def test_one_name_for_one_thing(found):
    wrong = [
        f"{fact['prog']}: {name}, which is {OTHER_NAMES[name]}"
        for fact, option in options(found)
        for name in [option["name"].split(" ")[0].replace("[no-]", "")]
        if name in OTHER_NAMES and (fact["name"], name) not in ELSEWHERE
    ]
    assert wrong == []


@pytest.mark.parametrize("name", TRAINING)
def test_help_is_short_and_in_order_of_use(name, found):
    fact = next(fact for fact in found if fact["name"] == name)
    usual = [option for option in fact["options"] if option["usual"]]
    assert 15 <= len(usual) <= 30 and len(usual) < len(fact["options"]) / 1.5
    shown = {option["name"].split(" ")[0] for option in usual}
    assert shown >= {"--data" if name != "toy_example" else "--cls", "--outdir", "--gpus", "--lr"}
    groups = list(dict.fromkeys(option["group"] for option in fact["options"]))
    first = [title for title in FIRST_GROUPS if title in groups]
    assert groups[: len(first)] == first and len(first) >= 5


def test_what_has_no_effect_is_at_the_end_of_help_all_alone(found):
    seen = set()
    for fact, option in options(found):
        last = option["group"] in LAST_GROUPS.values()
        assert not (last and option["usual"])
        assert last or not option["help"].startswith("no effect"), option
        if last:
            seen.add((fact["name"], option["name"].split(" ")[0]))
    assert seen >= {
        ("TrainGeneratorWandB", "--epochs"), ("TrainGeneratorWandB", "--ipc"),
        ("train_edm2", "--[no-]trick"), ("train_edm2", "--dataset"), ("toy_example.test",
        "--[no-]acid"),
    }  # fmt: skip


def test_users_read_published_names(found):
    words = {
        f"{fact['prog']} {where}": private_words(text)
        for fact in found
        for where, text in (
            ("", fact["about"]),
            *fact["presets"].items(),
            *((option["name"], option["help"]) for option in fact["options"]),
        )
    }
    assert {where: said for where, said in words.items() if said} == {}


def hidden_in(text: str) -> list[str]:
    """Options in the commands of a document that --help does not show."""
    wrong = []
    for words in commands(text):
        target, rest = (words[1], words[2:]) if words[0] == "-m" else (words[0], words[1:])
        name = target.removesuffix(".py").replace("/", ".")
        lines = frozen_cli.read(f"{name}.{rest[0]}" if rest else name) or frozen_cli.read(name)
        known = [line.split(" | ") for line in lines if " | hidden, the same as " in line]
        names = {former: said.rpartition(" ")[2] for former, said in known}
        for word in rest:
            option = word.split("=")[0]
            if option in names and not option.startswith("--no-"):
                wrong.append(f"{target} {option}, which is {names[option]}")
    return wrong


def test_documents_use_the_names_that_help_shows():
    root = frozen_cli.ROOT
    files = [root / "README.md", *root.glob("docs/*.md"), *root.glob("docs/studies/*.md")]
    files += [root / "CONTRIBUTING.md", *(f for f in root.glob("*.py") if f.name != "setup.py")]
    wrong = {}
    for file in files:
        if file.name == "from_the_originals.md":  # which is about the former names
            continue
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".py":  # the commands at the head of a script
            text = "```\n" + (ast.get_docstring(ast.parse(text)) or "") + "\n```"
        found = hidden_in(text)
        if found:
            wrong[file.name] = found
    assert wrong == {}
    assert hidden_in("`python TrainSimCLR.py --wd 1`") == [
        "TrainSimCLR.py --wd, which is --weight_decay"
    ]


def test_the_pages_are_what_the_scripts_say(found):
    changed = option_pages.differing(option_pages.pages(found))
    assert changed == [], "python -m tests.option_pages --write"


def test_a_page_has_presets_options_and_former_names(found):
    page = option_pages.pages(found)["TrainGeneratorWandB.md"]
    assert "| `cpu-small` | " in page and "| `--bs N` | " in page
    assert "`--data_tr` is `--data`" in page and "VALUE" not in page
