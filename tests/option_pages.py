"""docs/options/: a page for every script, with all of its options and presets, read off its parser.

python -m tests.option_pages              what differs from the pages; exit code 1 if anything
python -m tests.option_pages --write      write the pages anew
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from typing import Any

from runtime.help import Formatter, default_words, describe, options_in
from tests import frozen_cli

PAGES = frozen_cli.ROOT / "docs" / "options"
# Benchmarks are for whoever develops; benchmarks/README.md has them.
COMMANDS = {n: c for n, c in frozen_cli.COMMANDS.items() if not n.startswith("benchmarks.")}


def facts(name: str) -> list[dict[str, Any]]:
    """What there is to say of a command, and after it of each of its subcommands."""
    return _facts(name, frozen_cli.start(COMMANDS[name]).parser)


def _facts(name: str, parser: argparse.ArgumentParser) -> list[dict[str, Any]]:
    formatter = Formatter(parser.prog)
    usual = {id(a) for _, actions in options_in(parser, everything=False) for a in actions}
    options = [
        {
            "group": group.title,
            "name": formatter._format_action_invocation(action),
            "value": formatter.value(action),
            "help": describe(action),
            "default": default_words(action).strip(),
            "also": list(getattr(action, "hidden_names", ())),
            "usual": id(action) in usual,
        }
        for group, actions in options_in(parser, everything=True)
        for action in actions
        if action.option_strings and action.dest != "preset"
    ]
    found = [
        {
            "name": name,
            "prog": parser.prog,
            "about": (parser.description or "").strip().split("\n\n")[0],
            "presets": getattr(parser, "preset_lines", {}),
            "options": options,
            "speaks": hasattr(parser, "preset_lines"),
        }
    ]
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for word, sub in action.choices.items():
                found += _facts(f"{name}.{word}", sub)
    return found


def capture(names: list[str] | None = None) -> list[dict[str, Any]]:
    """`facts` of commands, read in a process of its own, which imports this tree's packages."""
    done = frozen_cli.captured("tests.option_pages", names or list(COMMANDS))
    return [fact for name in done for fact in done[name]]


def script_of(name: str) -> str:
    """`toy_example.plot` -> toy_example: the page that a command is on."""
    parts = name.split(".")
    return ".".join(parts[:2]) if parts[0] == "data" else parts[0]


def section(fact: dict[str, Any]) -> str:
    """One command in Markdown."""
    parts = [re.sub(r"\s+", " ", fact["about"])]
    if fact["presets"]:
        rows = [f"| `{name}` | {_cell(line)} |" for name, line in fact["presets"].items()]
        parts.append("\n".join(["| `--preset` | is |", "|---|---|", *rows]))
    titles = list(dict.fromkeys(option["group"] for option in fact["options"]))
    for title in titles:
        rows = [
            f"| `{_code(option['name'])}` | {_cell(option['help'] + ' ' + option['default'])} |"
            for option in fact["options"]
            if option["group"] == title
        ]
        parts.append("\n".join([f"| {title} | is |", "|---|---|", *rows]))
    former = [
        f"`{name}` is `{option['name'].split(' ')[0]}`"
        for option in fact["options"]
        for name in option["also"]
        if not name.startswith("--no-")
    ]
    if former:
        parts.append(f"Other names, which stay: {', '.join(sorted(set(former)))}.")
    return "\n\n".join(part for part in parts if part)


def _cell(text: str) -> str:
    return text.strip().replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def _code(text: str) -> str:
    return text.replace("|", "\\|")


def pages(found: list[dict[str, Any]]) -> dict[str, str]:
    """{file name: its text}."""
    scripts: dict[str, list[dict[str, Any]]] = {}
    for fact in found:
        scripts.setdefault(script_of(fact["name"]), []).append(fact)
    out = {}
    for script, of_it in scripts.items():
        path = COMMANDS[of_it[0]["name"]][0]
        shown = path if path.endswith(".py") else f"python -m {path}"
        parts = [
            f"# {shown}",
            "Written by `python -m tests.option_pages --write`; --help-all says the same.",
        ]
        for fact in of_it:
            if len(of_it) > 1:
                parts.append(f"## {fact['prog']}")
            parts.append(section(fact))
        out[f"{script}.md"] = "\n\n".join(parts) + "\n"
    return out


def differing(wanted: dict[str, str]) -> list[str]:
    """Names of pages that are missing, too many, or not as they should be."""
    there = {file.name: file.read_text(encoding="utf-8") for file in PAGES.glob("*.md")}
    return sorted(n for n in wanted.keys() | there.keys() if wanted.get(n) != there.get(n))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], prog="option_pages")
    parser.add_argument("names", nargs="*", metavar="COMMAND", help=argparse.SUPPRESS)
    parser.add_argument("--write", action="store_true", help="write the pages anew")
    parser.add_argument("--capture", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.capture:
        print(json.dumps({name: facts(name) for name in args.names}))
        return 0
    wanted = pages(capture())
    changed = differing(wanted)
    for name in changed:
        print(f"docs/options/{name} is not as the script says")
        if args.write:
            PAGES.mkdir(parents=True, exist_ok=True)
            if name in wanted:
                (PAGES / name).write_text(wanted[name], encoding="utf-8")
            else:
                (PAGES / name).unlink()
    return int(bool(changed) and not args.write)


if __name__ == "__main__":
    sys.exit(main())
