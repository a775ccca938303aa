"""Text of a user's into a shell script, such that it can never become code of it.

A value of letters, digits and `_@%+=:,./-` means itself wherever it stands. Any other is quoted,
and may stand only where quotes mean what they should: not inside other quotes, `${...}`,
arithmetic, a here-document, nor in what is read twice (`eval`, `bash -c`). So a script is read
from its beginning to each place where a value goes. In a comment a value keeps to its line; in a
line `#SBATCH`, which SLURM reads and no shell, it has to be one that means itself.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass, field

# What stands before a value that the shell, or a command, would read a second time.
_READ_TWICE = re.compile(
    r"(^|[\s;&|(`])(eval|let|trap|alias|ssh|su|declare|typeset|\[\[)\s|sh\s+-\w*c\b|--wrap"
)
_WORD_BEGINS = frozenset(" \t;&|(")
DIRECTIVE = "#SBATCH"


def plain(value: str) -> bool:
    """Whether a text means itself wherever it stands in a shell script."""
    return re.fullmatch(r"[A-Za-z0-9_@%+=:,./-]+", value) is not None


def quoted(words: tuple[str, ...]) -> str:
    """Words of a command, each quoted where it needs to be."""
    return " ".join(shlex.quote(word) for word in words)


@dataclass
class Scanner:
    """Reads a script and knows what it is inside of at the moment.

    inside: what is open, the innermost last: `"`, `'`, `$'`, a backtick, `${`, `((`, `$(`, `(`.
    comment: until the end of the line. document: a here-document may have begun.
    """

    inside: list[str] = field(default_factory=list)
    comment: bool = False
    document: bool = False
    line: str = ""  # of the line that is being read, what came so far
    goes_on: bool = False  # a backslash was the last character that was read
    _here: bool = False  # a here-document begins after this line

    def quotable(self) -> bool:
        """Whether a quoted word is one word here, and is read once."""
        open_ = [kind for kind in self.inside if kind not in ("(", "$(")]
        inner = self.inside[-1] if self.inside else ""
        if self.line.endswith(("$", "\\")):  # which would make other quotes of these
            return False
        fresh = inner in ("", "(", "$(")  # in `"$(...)"` quotes begin anew
        old = any(kind != '"' for kind in open_)
        twice = _READ_TWICE.search(self.line + " ") is not None
        return fresh and not old and not self.document and not twice

    def end_line(self) -> None:
        """A line break."""
        self.comment = False
        self.document = self.document or self._here
        self._here = False
        self.line = self.line[:-1] if self.goes_on else ""  # a backslash joins two lines
        self.goes_on = False

    def read(self, text: str) -> None:
        """Read on, within one line."""
        at, self.goes_on = 0, False
        while at < len(text):
            at += self._step(text, at)
        self.line += text

    def _step(self, text: str, at: int) -> int:
        """Read what stands at `at`; how many characters it was."""
        char, two = text[at], text[at : at + 2]
        inner = self.inside[-1] if self.inside else ""
        if self.comment:
            return 1
        if inner in ("'", "$'"):
            if inner == "$'" and char == "\\":
                return 2
            if char == "'":
                self.inside.pop()
            return 1
        if char == "\\":
            self.goes_on = at + 1 == len(text)
            return 2
        if inner == '"':
            return self._in_double_quotes(char, two, text[at : at + 3])
        before = text[at - 1] if at else (self.line[-1:] or " ")
        if char == "#" and before in _WORD_BEGINS and inner not in ("${", "(("):
            self.comment = True
            return 1
        return self._in_code(char, two, text[at : at + 3], inner)

    def _in_double_quotes(self, char: str, two: str, three: str) -> int:
        if char == '"':
            self.inside.pop()
        return self._opened(char, two, three)

    def _in_code(self, char: str, two: str, three: str, inner: str) -> int:
        closing = {"${": "}", "$(": ")", "(": ")"}
        if inner == "((" and two == "))":
            self.inside.pop()
            return 2
        if closing.get(inner) == char:
            self.inside.pop()
            return 1
        if three == "<<<":
            return 3
        if two == "<<" and inner not in ("((", "${"):
            self._here = True
            return 2
        if two == "$'":
            self.inside.append("$'")
            return 2
        if char in "'\"":
            self.inside.append(char)
            return 1
        if two == "((" and inner not in ("((", "${"):
            self.inside.append("((")
            return 2
        if char == "(" and inner != "${":
            self.inside.append("(")
            return 1
        return self._opened(char, two, three)

    def _opened(self, char: str, two: str, three: str) -> int:
        """What may open in double quotes too."""
        if three == "$((":
            self.inside.append("((")
            return 3
        if two in ("$(", "${"):
            self.inside.append(two)
            return 2
        if char == "`":
            if "`" in self.inside:
                del self.inside[self.inside.index("`") :]
            else:
                self.inside.append("`")
        return 1
