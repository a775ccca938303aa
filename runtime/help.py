"""What --help and --help-all say, and what a page of the reference says of a script's options.

Each option has one name, what its value is (N, FLOAT, FILE, DIR, NAME ...) and its default, which
is the preset's where one is chosen. --help shows what most people need (rows tagged `USUAL`),
--help-all everything but former names.
"""

from __future__ import annotations

import argparse
import copy
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from runtime.options import FIRST_GROUPS, LAST_GROUPS
from runtime.types import BoolAction, metavar_of

MOST_PRESETS = 20  # in --help; --help-all lists all
_ALL = "--help-all"
_SAID = re.compile(r"default: |\(default |\(required")


class Formatter(argparse.RawDescriptionHelpFormatter):
    """argparse's, with a value's kind and the default of each option."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=30)

    def _format_action(self, action: argparse.Action) -> str:
        if action.help is None and action.option_strings:  # argparse would say nothing at all
            action = copy.copy(action)
            action.help = default_words(action).strip()
        return super()._format_action(action)

    def _expand_help(self, action: argparse.Action) -> str:
        return describe(action) + (default_words(action) if action.option_strings else "")

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return metavar_of(action.type)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        if isinstance(action, BoolAction):
            return f"--[no-]{action.option_strings[0][2:]}"
        return f"{', '.join(action.option_strings)} {self.value(action)}".rstrip()

    def value(self, action: argparse.Action) -> str:
        """How the value is written, `N [N ...]`; nothing for a switch."""
        if action.nargs == 0 or isinstance(action, BoolAction):
            return ""
        return self._format_args(action, self._get_default_metavar_for_optional(action))


class HelpAll(argparse._HelpAction):
    """--help-all: every option."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        print(parser.format_help_all(), end="")
        parser.exit()


def describe(action: argparse.Action) -> str:
    """An option's help text; it may be written as argparse wants it, with %% for a percent sign."""
    return (action.help or "").replace("%%", "%")


def default_words(action: argparse.Action) -> str:
    """` (default: 0.1)`; nothing where the help says it itself, and for --help."""
    help_, value = action.help or "", action.default
    if _SAID.search(help_) or isinstance(action, argparse._HelpAction):
        return ""
    if action.required:
        return " (required)"
    return f" (default: {shown(action, value)})"


def shown(action: argparse.Action, value: Any) -> str:
    """A value as one types it, or in words."""
    value = getattr(action, "shown_as", {}).get(value, value) if isinstance(value, str) else value
    if value is None or value is argparse.SUPPRESS:
        return "none"
    own = getattr(action.type, "shown", None)
    if own is not None and not isinstance(value, str):
        return own(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(shown(action, v) for v in value) or getattr(action, "empty_word", "none")
    return f"{value:g}" if isinstance(value, float) else str(value)


def options_in(
    parser: argparse.ArgumentParser, *, everything: bool
) -> Iterator[tuple[argparse._ArgumentGroup, list[argparse.Action]]]:
    """Groups with their options, in the order of --help; what is never shown is left out."""
    titles = [*FIRST_GROUPS, *(str(group.title) for group in parser._action_groups)]
    titles = [t for t in dict.fromkeys(titles) if t not in LAST_GROUPS.values()]
    titles += LAST_GROUPS.values()
    for group in sorted(parser._action_groups, key=lambda group: titles.index(str(group.title))):
        actions = [
            action
            for action in group._group_actions
            if action.help != argparse.SUPPRESS
            and not isinstance(action, argparse._HelpAction)
            and (everything or getattr(action, "usual", True) or action.required)
        ]
        actions = [a for a in actions if everything or a.dest != "preset"]
        if actions:
            yield group, actions


def splits(parser: argparse.ArgumentParser) -> bool:
    """Whether --help shows less than --help-all: some rows are tagged for it, others are not."""
    usual = {getattr(action, "usual", None) for action in parser._actions}
    return usual >= {True, False}


def help_text(
    parser: argparse.ArgumentParser, presets: Mapping[str, str], *, everything: bool = True
) -> str:
    """What --help prints. presets: name -> its line of description."""
    everything = everything or not splits(parser)
    formatter = Formatter(parser.prog)
    positional = [a for a in parser._actions if not a.option_strings]
    needed = "".join(
        f"{formatter._format_action_invocation(a)} " for a in parser._actions if a.required
    )
    options = f"usage: {parser.prog} {'[--preset NAME] ' if presets else ''}{needed}[options]"
    usage = options if not positional else parser.format_usage()
    formatter.add_text(parser.description)
    parts = [usage.rstrip() + "\n", formatter.format_help()]
    if presets:
        parts.append(_presets(presets, everything))
    count, formatter = 0, Formatter(parser.prog)
    for group, actions in options_in(parser, everything=everything):
        formatter.start_section(group.title)
        formatter.add_text(group.description)
        formatter.add_arguments(a for a in actions if a.dest != "preset")
        formatter.end_section()
        count += len(actions)
    parts.append(formatter.format_help())
    if parser.epilog:
        parts.append(parser.epilog + "\n")
    if not everything:
        whole = sum(len(actions) for _, actions in options_in(parser, everything=True))
        parts.append(f"These are the {count} most used options; {_ALL} lists all {whole}.\n")
    return "\n".join(part for part in parts if part)


def _presets(presets: Mapping[str, str], everything: bool) -> str:
    shown = dict(list(presets.items())[: None if everything else MOST_PRESETS])
    width = min(26, max(map(len, shown)))
    lines = ["presets (--preset NAME; what you type beside it goes first):"]
    columns = Formatter("")._width
    for name, line in shown.items():
        lines += textwrap.wrap(
            line,
            max(40, columns),
            initial_indent=f"  {name:{width}}  ",
            subsequent_indent=" " * (width + 4),
        ) or [f"  {name}"]
    if len(shown) < len(presets):
        lines.append(f"  and {len(presets) - len(shown)} more: {_ALL}")
    return "\n".join(lines) + "\n"
