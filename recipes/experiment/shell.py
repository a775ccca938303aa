"""Text of a user's into a shell script, such that it can never become code of it.

A script is read from its beginning to each place where a value goes, and a value may stand only
where the reader knows what the shell makes of it: a whole number anywhere; letters, digits and
`_@%+=:,./-` also inside of quotes; any other text, which is quoted, only where it is read once, as
a word of data. Behind a construct that the reader does not know no value may stand but numbers. In
a comment a value keeps to its line; in a line `#SBATCH`, which SLURM reads and no shell, it has to
be one that means itself.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

from recipes.experiment.commands import MANY, ONE, Command

DIRECTIVE = "#SBATCH"
QUOTES = ("'", '"', "$'")
# What is open, and by what it ends. In those of code there are commands; in others no values.
_CODE = ("", "$(", "(")
_CLOSING = {"${": "}", "$(": ")", "(": ")", "<(": ")", "=(": ")", "((": "))", "`": "`", "in((": ")"}
_NAMED = {"${": "`${..}`", "((": "arithmetic", "in((": "arithmetic", "`": "backticks",
          "<(": "`<(..)`", "=(": "an array"}  # fmt: skip


def plain(value: str) -> bool:
    """Whether a text means itself wherever words stand in a shell script, also inside of quotes."""
    return re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", value) is not None


def number(value: str) -> bool:
    """Whether a text is a whole number, which is data even where the shell reads code."""
    return re.fullmatch(r"[0-9]+", value) is not None


def quoted(words: tuple[str, ...]) -> str:
    """Words of a command, each quoted where it needs to be."""
    return " ".join(shlex.quote(word) for word in words)


@dataclass
class Part:
    """What is open: a key of _CLOSING, a quote, or "" for the script. command: of one of code."""

    kind: str = ""
    command: Command = field(default_factory=Command)


@dataclass
class Scanner:
    """Reads a script and knows what it is inside of at the moment.

    parts: what is open, the innermost last. comment: until the end of the line. lost: the construct
    behind which it does not know what the shell reads. values: whether a value stands somewhere.
    fault: what makes code of a value that stands before it.
    """

    parts: list[Part] = field(default_factory=lambda: [Part()])
    comment: bool = False
    lost: str = ""
    values: bool = False
    fault: str = ""
    _goes_on: bool = False  # a backslash was the last character that was read
    _last: str = " "  # the character before

    # ------------------------------------------------------------------------- where values stand

    def refusal(self, value: tuple[str, ...], *, quotes: bool, own: bool) -> str | None:
        """Why a value cannot stand here; None: it can.

        value: its words. quotes: whether quotes around it are allowed for. own: it is the
        toolkit's own, which may be a command's name.
        """
        if self.lost:
            return f"behind {self.lost}"
        for part in self.parts:
            if part.kind in _NAMED:
                return f"inside of {_NAMED[part.kind]}"
        if self._last in "$\\" or self._goes_on:
            return f"after `{self._last}`"
        inside = self.parts[-1].kind in QUOTES
        if inside and not quotes:
            return "inside of quotes"
        code = [part for part in self.parts if part.kind in _CODE]
        for part, within in zip(code, [*code[1:], None], strict=True):
            last = within is None
            if within is not None and within.kind == "(":  # which is no word of a command
                continue
            several = last and len(value) != 1
            if found := part.command.refusal(several=several, own=own and last and not inside):
                return found
        return None

    def option(self, value: str) -> str | None:
        """The command that could take a value for one of its options here; None: none could."""
        return None if self.lost else self._inner().option(value)

    def value(self, text: str) -> None:
        """A value stands here."""
        self.values, self._goes_on = True, False
        self._inner().add("x" if text else "")
        self._last = "x"

    def _inner(self) -> Command:
        """The command that is being read."""
        return next(part.command for part in reversed(self.parts) if part.kind in _CODE)

    # --------------------------------------------------------------------------------- reading on

    def read(self, text: str) -> None:
        """Read on, within one line."""
        at = 0
        while at < len(text):
            self._goes_on = False
            step = self._step(text[at:])
            at += step
            self._last = text[min(at, len(text)) - 1]

    def end_line(self) -> None:
        """A line break; one behind a backslash joins two lines."""
        if self.parts[-1].kind in _CODE and (self.comment or not self._goes_on):
            self._end_command()
        if not self._goes_on:
            self._last = " "
        self.comment = self._goes_on = False

    def _step(self, text: str) -> int:
        """Read what comes next; how many characters it was."""
        char, kind = text[0], self.parts[-1].kind
        if self.comment:
            return 1
        if kind in ("'", "$'"):
            if kind == "$'" and char == "\\":
                return 2
            return self._closed() if char == "'" else self._letter(char)
        if char == "\\":
            self._goes_on = len(text) == 1
            return 2 if self._goes_on else self._letter(text[:2])
        if kind == '"':
            return self._closed() if char == '"' else self._expansion(text) or self._letter(char)
        return self._in_code(text) if kind in _CODE else self._elsewhere(text)

    def _letter(self, text: str) -> int:
        self._inner().add(text[-1])
        return len(text)

    def _open(self, kind: str, length: int) -> int:
        self.parts.append(Part(kind))
        return length

    def _closed(self, length: int = 1) -> int:
        self.parts.pop()
        return length

    def _expansion(self, text: str) -> int:
        """What is expanded in double quotes too; 0: nothing begins here."""
        mark = ONE if self.parts[-1].kind == '"' else MANY
        if re.match(r"\$\{?[@*]|\$\{[^}\"'`]*\[[@*]\]|\$\{!", text):
            mark = MANY
        for front, kind in (("$((", "(("), ("$[", "(("), ("$(", "$("), ("${", "${"), ("`", "`")):
            if text.startswith(front):
                if front == "$[":
                    self.lost = self.lost or "`$[`"
                self._inner().add(mark)
                return self._open(kind, len(front))
        if found := re.match(r"\$([A-Za-z_]\w*|[0-9@*#?$!-])", text):
            self._inner().add(mark)
            return len(found[0])
        return 0

    def _elsewhere(self, text: str) -> int:
        """In arithmetic, `${..}`, backticks, arrays, substituted processes: only where they end."""
        kind = self.parts[-1].kind
        if text.startswith(_CLOSING[kind]):
            return self._closed(len(_CLOSING[kind]))
        if kind in ("`", "<(", "=(") and re.match(r"#|<<|case\b", text):
            self.lost = self.lost or _NAMED[kind]
        for quote in ("$'", "'", '"'):
            if text.startswith(quote):
                if kind == "${" and quote != '"' and self._quoted():  # of which shells disagree
                    self.lost = self.lost or 'a single quote in `"${..}"`'
                return self._open(quote, len(quote))
        for front, inner in (("$((", "(("), ("$(", "$("), ("${", "${"), ("`", "`")):
            if text.startswith(front):
                return self._open(inner, len(front))
        if text[0] == "(" and kind != "${":
            return self._open("<(" if kind == "<(" else "in((", 1)
        return 1

    def _quoted(self) -> bool:
        """Whether double quotes are open around the innermost `${`."""
        return len(self.parts) > 1 and self.parts[-2].kind == '"'

    def _in_code(self, text: str) -> int:
        char, command = text[0], self.parts[-1].command
        if char == "#" and command.word is None:
            self.comment = True
            return 1
        if char in " \t":
            self._end_word()
            return 1
        for quote in ("$'", '$"', "'", '"'):
            if text.startswith(quote):
                command.add("")
                return self._open(quote[-1] if quote == '$"' else quote, len(quote))
        if found := re.match(r"&>>?|[<>]", text):
            return self._redirection(text, found[0])
        if char in ";&|":
            return self._end_command(re.match(r";;?&?|&&?|\|[|&]?", text))
        if char in "()":
            return self._parenthesis(text)
        return self._expansion(text) or self._letter(char)

    def _redirection(self, text: str, front: str) -> int:
        command = self.parts[-1].command
        if text[:2] in ("<(", ">("):
            command.add(ONE)
            return self._open("<(", 2)
        found = re.match(r"<<<|<<-?|<>|<&|>&|>>|>\||&>>?|[<>]", text)
        operator = found[0] if found else front
        wrong = command.redirect(operator)
        if operator in ("<<", "<<-"):
            wrong = "a here-document"
        self.lost = self.lost or wrong or ""
        return len(operator)

    def _parenthesis(self, text: str) -> int:
        part, command = self.parts[-1], self.parts[-1].command
        begins = command.word is None and not command.words
        if text[0] == ")":
            self._end_command()
            return self._closed() if part.kind in ("$(", "(") else 1
        if text.startswith("((") and command.word is None and command.words in ([], ["for"]):
            return self._open("((", 2)
        if begins or (command.words[:1] == ["case"] and command.word is None):
            return self._open("(", 1)
        if found := re.match(r"\(\s*\)", text):  # of a function that is defined
            return self._end_command(found)
        if (command.word or "").endswith("="):
            return self._open("=(", 1)
        self.lost = self.lost or "a `(` that is not known"
        return self._open("(", 1)

    def _end_word(self) -> None:
        part = self.parts[-1]
        part.command.end_word()
        if part.command.words == ["case"] and part.kind:  # whose `)` closes nothing
            self.lost = self.lost or "a `case` inside of parentheses"
        if self.values and (name := part.command.pipes_into()):
            self.fault = self.fault or f"a pipe into `{name}`"

    def _end_command(self, found: re.Match[str] | None = None) -> int:
        """An operator that was found; None: a line break or a parenthesis."""
        self._end_word()
        part, operator = self.parts[-1], found[0] if found else ""
        self.lost = self.lost or part.command.unknown() or ""
        goes_on = part.command.piped and not part.command.words and not operator
        part.command = Command(piped=goes_on or operator in ("|", "|&"))
        return len(operator)
