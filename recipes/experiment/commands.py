"""Which words of a shell's command are read as data, and which as code.

A command is what stands between two operators: assignments, a name, arguments, redirections. The
shell's own commands are known one by one; of programs those are known that read code from their
arguments. Whatever is not known to be data counts as code.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from itertools import pairwise

SHELLS = frozenset("ash bash csh dash fish ksh mksh rbash sh tcsh zsh".split())
# Read what they are given a second time, as code or as the name of a variable with a subscript.
READERS = frozenset(
    "[[ alias at awk batch bind busybox compgen complete compopt coproc crontab declare doas "
    "enable eval expect fc find function gawk getopts hash history jobs let local make mapfile "
    "mawk parallel perl read readarray readonly rsh ruby runuser screen script sed select ssh su "
    "sudo tmux trap typeset unset watch xargs".split()
)
FROM_PIPES = SHELLS | frozenset("at batch busybox parallel perl ruby ssh su sudo xargs".split())
# Commands whose arguments are data whatever they are called.
DATA = frozenset("[ : case cd echo exit export for printf pushd return set test".split())
# Of these a word that begins with `-` does nothing where a value may stand.
WITHOUT_OPTIONS = frozenset("[ : case echo for printf test".split())
_NEGATIVE = re.compile(r"-(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
# Those that run another one, and how many of their arguments come before it.
WRAPPERS = {**dict.fromkeys("builtin command env exec ionice mpirun nice nohup setsid srun stdbuf "
                            "time unbuffer".split(), 0),
            **dict.fromkeys("chroot chrt flock taskset timeout".split(), 1)}  # fmt: skip
# Words after which a command begins; -p is of `time`.
OPENING = frozenset("! { } -p do done elif else esac fi if then time until while".split())
_CODE_OPTION = re.compile(
    r"-[A-Za-z]*c|--([\w-]+=)?(wrap|(\w+-)?command|eval|exec|split-string|rsh|use-compress-program)"
)
_OPERATOR = re.compile(r"-\w+|!?=|==|[<>!(]")  # of `[` and `test`
_KNOWN_SHOPT = frozenset("-s -u dotglob failglob globstar inherit_errexit nullglob".split())
_ASSIGNED = re.compile(r"([A-Za-z_]\w*)\+?=")
# Variables whose value bash itself expands or calculates with.
_SPECIAL = re.compile(r"BASH\w*|COMP\w*|ENV|EPOCH\w*|HIST\w*|IFS|LINENO|OPT\w+|PROMPT\w*|PS\d|"
                      r"RANDOM|READLINE\w*|SECONDS|SHELLOPTS|SRANDOM")  # fmt: skip
ONE, MANY = "\x01", "\x02"  # an expansion in a word: it stays one word, or may become several


@dataclass
class Command:
    """A command that is being read. words: those that are complete, without quotes, expansions as
    ONE or MANY. word: the one that is being read. target: the operator of a redirection whose word
    comes next. piped: it reads from a pipe."""

    words: list[str] = field(default_factory=list)
    word: str | None = None
    target: str = ""
    piped: bool = False

    def add(self, text: str) -> None:
        """Read on in a word."""
        self.word = (self.word or "") + text

    def end_word(self) -> None:
        """White space, or an operator."""
        word, self.word = self.word, None
        if word is None:
            return
        if self.target:
            self.target = ""
        elif not (not self.words and (word in OPENING or _ASSIGNED.match(word))):
            self.words.append(word)

    def redirect(self, operator: str) -> str | None:
        """An operator of redirection; what is wrong with it."""
        word = self.word or ""
        if word.isdigit():
            self.word = None  # the number of a file
        elif re.fullmatch(r"\{\w+\}", word):
            return "a redirection of a named file"
        self.end_word()
        self.target = operator
        return None

    def unknown(self) -> str | None:
        """Why commands after this one could be something else than they look; None: they could
        not."""
        first, rest = (self.words[0], self.words[1:]) if self.words else ("", [])
        if first == "[[" and self.words[-1] != "]]":
            return "`[[` of several parts"
        if first in ("declare", "local", "typeset", "export", "readonly"):
            odd = re.compile(rf"[-+]\w*[Aain]|[^-=]*[{ONE}{MANY}]")
            if any(odd.match(word) for word in rest):
                return f"`{first}` with attributes, or of a name that is not known"
        if first in ("coproc", "alias") or (first == "shopt" and not set(rest) <= _KNOWN_SHOPT):
            return f"`{first}`"
        return None

    def pipes_into(self) -> str | None:
        """The name of a shell, or of what runs one, among its words, if it reads from a pipe."""
        if not self.piped:
            return None
        if self.words[:1] in (["."], ["source"]):
            return self.words[0]
        names = [word.rpartition("/")[2] for word in self.words]
        return next((name for name in names if name in FROM_PIPES), None)

    def refusal(self, *, several: bool = False, own: bool = False) -> str | None:
        """Why a value cannot stand at the place that has been read to; None: it can.

        several: it is several words, or none. own: the toolkit's own, that may name a program.
        """
        word = self.word or ""
        if several and (self.word is not None or self.target):
            return "in a word, and is several"
        if self.target:  # the word behind `>&` is expanded twice
            return f"after `{self.target}`" if self.target in ("<<<", ">&", "<&") else None
        if not self.words:
            return None if own and self.word is None else self._in_front(word)
        if any(MANY in each for each in [*self.words, word]):
            return "beside an expansion without quotes, which may be any words"
        before = self.words[-1] if len(self.words) > 1 else ""
        option = word.rpartition("=")[0] or word or before
        if _CODE_OPTION.fullmatch(option):
            return f"after `{option}`"
        if ONE in self.words[0] and any(_CODE_OPTION.fullmatch(w) for w in self.words[1:]):
            return "in a command whose name is not known"
        return self._known(word, own) or self._reader()

    def option(self, value: str) -> str | None:
        """The command of which a value that begins with `-` would become an option here, whatever
        quotes are around it; None where it begins no word, or one that is read as data.

        Those are words behind `--`, a negative number behind `--opt`, and those of commands that
        take no options where values may stand.
        """
        begins = not (self.word or "").replace(ONE, "")
        if self.target or not begins or not self.words or not value.startswith("-"):
            return None
        first, rest = self.words[0].rpartition("/")[2], self.words[1:]
        if first in WITHOUT_OPTIONS or self._behind_end(first) or self._is_codes():
            return None
        if rest and re.fullmatch(r"--[\w-]+", rest[-1]) and re.fullmatch(_NEGATIVE, value):
            return None
        return first or "it"

    def _behind_end(self, first: str) -> bool:
        """Whether `--` ends the options of the command, or of the one that it runs."""
        ends = [at for at, word in enumerate(self.words) if word == "--"]
        if first not in WRAPPERS:
            return bool(ends)
        return any(len(self._named(at)) > WRAPPERS[first] for at in ends)

    def _is_codes(self) -> bool:
        """Whether a word here is one of those that `bash -c CODE` gives to its code."""
        at = next((k for k, w in enumerate(self.words) if w.rpartition("/")[2] in SHELLS), None)
        return at is not None and self._behind_code(at + 1)

    def _named(self, end: int | None = None) -> list[str]:
        """The words that may name what a wrapper runs: no options, and not their numbers."""
        return [
            w for before, w in pairwise(self.words[:end])
            if not w.startswith("-") and not _ASSIGNED.match(w)
            and not (w.isdigit() and before.startswith("-"))
        ]  # fmt: skip

    def _in_front(self, word: str) -> str | None:
        found = _ASSIGNED.match(word)
        if found is None:
            return "in the place of a command's name"
        special = _SPECIAL.fullmatch(found[1])
        return f"in {found[1]}, which the shell itself reads" if special else None

    def _known(self, word: str, own: bool) -> str | None:
        """Of commands that are known: arguments that are not data."""
        first, rest = self.words[0], self.words[1:]
        assigned = _ASSIGNED.match(word)
        wrong = (
            (first in ("[", "test") and {"-v", "-R"} & set(rest))
            # A value that is `-v` would make code of the next, and of itself in a format's place
            or (first in ("[", "test") and rest and not _OPERATOR.fullmatch(rest[-1]))
            or (first == "printf" and (not rest or any(w.startswith("-v") for w in rest)))
            or (first == "set" and "--" not in rest)
            or (first == "wait" and "-p" in rest)
            or (first == "export" and (not assigned or _SPECIAL.fullmatch(assigned[1])))
            or (first == "for" and "in" not in rest[1:])
            or ("env" in self.words and any(re.match(r"-\w*S|--split", w) for w in rest))
        )
        if wrong:
            return f"in `{first}`"
        if first in WRAPPERS and len(self._named()) <= WRAPPERS[first] and not own:
            return "in the place of a command's name"
        return None

    def _reader(self) -> str | None:
        """A word that is the name of a shell or of another reader makes arguments code: but those
        behind `bash -c CODE` are that code's $0, $1, .., and those behind `bash FILE` the file's.
        """
        if self.words[0] in DATA:
            return None
        for at, word in enumerate(self.words):
            name = word.rpartition("/")[2]
            if name in READERS or (name in SHELLS and not self._behind_code(at + 1)):
                return f"in `{name}`"
            if name in SHELLS:
                return None
        return None

    def _behind_code(self, at: int) -> bool:
        """Whether words from `at` are a shell's options that are known, and its code or file."""
        for number, word in enumerate(self.words[at:], at):
            if not word.startswith(("-", "+")):
                again = [w.rpartition("/")[2] for w in self.words[number + 1 :]]
                return not any(w in SHELLS or w in READERS for w in again)
            if not re.fullmatch(r"-[eufxlc]+", word):
                return False
        return False
