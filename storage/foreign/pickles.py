"""Pickles read as data: what a file says is taken down, nothing of it is imported or called.

A small machine for the pickle opcodes, over `pickletools.genops`.  Containers and plain values
become themselves; everything else stays a description: a global is its name, an object is an
`Inert` with the state it was given.  Globals that are not expected are refused by name.  Work and
memory are bounded by the length of the file: lengths are believed only as far as there are bytes,
a value that the file has once is not handed to calls over and over, and nothing but plain values
is ever hashed or compared.
"""

import pickletools
from collections.abc import Callable
from typing import IO, Any, NamedTuple, cast

from storage.errors import one_line

MAX_OPS = 1_000_000  # a network of 1.5 billion weights has some 50,000
_MAX_NAME = 500  # characters of a global
_MAX_BITS = 512  # of a whole number
_MAX_KEY = 1 << 60  # of whole numbers as keys; larger ones can be made to have one hash


class PickleError(ValueError):
    """The bytes are no pickle, or one that does more than it should; one line."""


class Refused(PickleError):
    """A global that is not allowed; `name` is `module.name`."""

    def __init__(self, name: str) -> None:
        super().__init__(f"global {name}")
        self.name = name


class Global(NamedTuple):
    """`module.name`, never looked up."""

    name: str


class Inert:
    """An object of the file: of which class, made with which arguments, given which state."""

    __slots__ = ("args", "cls", "items", "state")

    def __init__(self, cls: str, args: tuple = (), state: Any = None) -> None:
        self.cls, self.args, self.state = cls, args, state
        self.items: list[Any] = []


class _Mark:
    __slots__ = ()


_MARK = _Mark()
_PLAIN = (str, int, float, bool, bytes, type(None))
_PUSH = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8"),
    *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING"),
}
_MAKE: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_SET": list,
    "EMPTY_TUPLE": tuple,
}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class Span:
    """Bytes of a file that were not read: `length` of them from `offset` on.

    To genops, which asks of bytes only how many they are, it is those bytes.
    """

    __slots__ = ("length", "offset")

    def __init__(self, offset: int, length: int) -> None:
        self.offset, self.length = offset, length

    def __len__(self) -> int:
        return self.length


class _Bounded:
    """A file that is never asked for more than it holds (genops believes the lengths it reads).

    least: bytes objects of at least so many bytes are passed over (a `Span`); None: all are read.
    """

    _BYTES = (b"B", b"\x8e")  # BINBYTES, BINBYTES8

    def __init__(self, file: IO[bytes], end: int, least: int | None = None) -> None:
        # what genops reads first of such an operation is the length, in 4 or 8 bytes
        self._least = None if least is None else max(least, 9)
        self._file, self.end = file, end
        self._begins, self._operation = False, b""

    def tell(self) -> int:
        self._begins = True  # genops asks where it is before each operation, whose code is next
        return self._file.tell()

    def read(self, count: int) -> bytes:
        here = self._file.tell()
        if not 0 <= count <= self.end - here:
            raise PickleError(f"says {count} bytes follow, where the file ends before")
        if self._begins:
            self._begins, self._operation = False, self._file.read(count)
            return self._operation
        if self._least is not None and count >= self._least and self._operation in self._BYTES:
            self._file.seek(count, 1)
            return cast(bytes, Span(here, count))
        return self._file.read(count)

    def readline(self) -> bytes:
        return self._file.readline(1 << 16)


def file_end(file: IO[bytes]) -> int:
    """Length of an open file; its position stays."""
    here = file.tell()
    end = file.seek(0, 2)
    file.seek(here)
    return end


def read_pickle(
    file: IO[bytes],
    *,
    allowed: Callable[[str], bool],
    call: Callable[[str, tuple], Any],
    persistent: Callable[[Any], Any] | None = None,
    max_ops: int = MAX_OPS,
    unread: int | None = None,
) -> Any:
    """The value of the pickle that begins at the file's position, which then is behind it.

    allowed(name): whether a global `module.name` may occur. call(name, args): what stands for the
    result of calling it, by our own code; `Inert(name, args)` where nothing is known. persistent:
    the same for persistent ids; None refuses them. Python-2 strings come as latin-1 str, sets as
    lists, byte arrays as bytes. unread: bytes objects of at least so many bytes come as a `Span` of
    the file, not read. Raises Refused, PickleError.
    """
    try:
        bounded = _Bounded(file, file_end(file), unread)
        return _Machine(allowed, call, persistent, max_ops).run(bounded)
    except (PickleError, MemoryError, OSError):
        raise
    except Exception as error:  # the bytes come from outside: anything can be wrong with them
        raise PickleError(f"damaged ({one_line(error, 120)})") from None


class _Machine:
    def __init__(
        self,
        allowed: Callable[[str], bool],
        call: Callable[[str, tuple], Any],
        persistent: Callable[[Any], Any] | None,
        max_ops: int,
    ) -> None:
        self.allowed, self.call, self.persistent, self.max_ops = allowed, call, persistent, max_ops
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.left = 0  # what calls may still be given, in characters, bytes and items

    def run(self, file: _Bounded) -> Any:
        stack, memo = self.stack, self.memo
        self.left = 2 * file.end + MAX_OPS
        value: Any
        for count, (code, value, _) in enumerate(pickletools.genops(cast(IO[bytes], file))):
            if count >= self.max_ops:
                raise PickleError(f"more than {self.max_ops} operations")
            name = code.name
            if name in _PUSH:
                if isinstance(value, int) and value.bit_length() > _MAX_BITS:
                    raise PickleError(f"has a number of {value.bit_length()} bits")
                stack.append(bytes(value) if name == "BYTEARRAY8" else value)
            elif name in ("MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT"):
                key = len(memo) if name == "MEMOIZE" else value
                if key >> 32:
                    raise PickleError("has a memo number that no file comes to")
                memo[key] = self.top()
            elif name in ("GET", "BINGET", "LONG_BINGET"):
                stack.append(memo[value])
            elif name in _MAKE:
                stack.append(_MAKE[name]())
            elif name == "MARK":
                stack.append(_MARK)
            elif name in _TUPLES:
                items = [self.pop() for _ in range(_TUPLES[name])]
                stack.append(tuple(reversed(items)))
            elif name == "STOP":
                value = self.pop()
                if stack:
                    raise PickleError("ends with values left over")
                return value
            elif name not in ("PROTO", "FRAME"):
                self.other(name, value)
        raise PickleError("has no end")

    def top(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("takes a value that is not there")
        return self.stack[-1]

    def pop(self) -> Any:
        value = self.top()
        self.stack.pop()
        return value

    def pop_mark(self) -> list[Any]:
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                items = self.stack[at + 1 :]
                del self.stack[at:]
                return items
        raise PickleError("has no mark")

    def other(self, name: str, value: Any) -> None:
        stack = self.stack
        if name == "GLOBAL":
            stack.append(self.name_of(*value.split(" ", 1)))
        elif name == "STACK_GLOBAL":
            last, first = self.pop(), self.pop()
            stack.append(self.name_of(first, last))
        elif name == "REDUCE":
            args, function = self.pop(), self.pop()
            if not isinstance(function, Global) or not isinstance(args, tuple):
                raise PickleError("calls what is no name")
            stack.append(self.called(function.name, args))
        elif name in ("NEWOBJ", "NEWOBJ_EX"):
            keywords = self.pop() if name == "NEWOBJ_EX" else {}
            args, cls = self.pop(), self.pop()
            if not isinstance(cls, Global) or not isinstance(args, tuple) or keywords:
                raise PickleError("makes an object of what is no class")
            stack.append(self.called(cls.name, args))
        elif name == "BUILD":
            state = self.pop()
            if isinstance(self.top(), Inert):
                self.top().state = state
            elif isinstance(self.top(), Global):
                raise PickleError("gives a state to what is no object")
        elif name in ("APPEND", "APPENDS", "ADDITEMS"):
            items = [self.pop()] if name == "APPEND" else self.pop_mark()
            self.add(items)
        elif name in ("SETITEM", "SETITEMS"):
            pair = list(reversed((self.pop(), self.pop()))) if name == "SETITEM" else None
            self.put(self.pop_mark() if pair is None else pair)
        elif name in ("LIST", "FROZENSET"):
            stack.append(self.pop_mark())
        elif name == "TUPLE":
            stack.append(tuple(self.pop_mark()))
        elif name == "DICT":
            items = self.pop_mark()
            stack.append({})
            self.put(items)
        elif name == "POP":
            if not stack:
                raise PickleError("takes a value that is not there")
            stack.pop()
        elif name == "POP_MARK":
            self.pop_mark()
        elif name == "DUP":
            stack.append(self.top())
        elif name == "BINPERSID" and self.persistent is not None:
            stack.append(self.persistent(self.pop()))
        else:
            raise PickleError(f"uses the operation {name}, which nothing expected here needs")

    def called(self, name: str, args: tuple) -> Any:
        # What a call is given it may copy or walk through. A file that is honest gives each thing
        # to one call; one that gives the same long list to 100,000 would fill any memory.
        self.left -= len(args)
        sized = (str, bytes, list, tuple, dict, Span)
        self.left -= sum(len(a) for a in args if isinstance(a, sized))
        if self.left < 0:
            raise PickleError("calls with the same values over and over")
        return self.call(name, args)

    def name_of(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise PickleError("names a global by what is no string")
        full = f"{module[:_MAX_NAME]}.{name[:_MAX_NAME]}"
        if len(full) > _MAX_NAME or not self.allowed(full):
            printable = full if full.isprintable() else ascii(full)
            raise Refused(printable if len(printable) < 200 else printable[:200] + "...")
        return Global(full)

    def add(self, items: list[Any]) -> None:
        target = self.top()
        if isinstance(target, (list, Inert)):
            (target if isinstance(target, list) else target.items).extend(items)
        else:
            raise PickleError("adds items to what is no list")

    def put(self, items: list[Any]) -> None:
        target = self.top()
        if len(items) % 2:
            raise PickleError("has a key without a value")
        if isinstance(target, Inert):
            target.items.extend(zip(items[::2], items[1::2], strict=True))
            return
        if not isinstance(target, dict):
            raise PickleError("sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # a tuple that holds itself twice, and so on, takes for ever to hash
            # names of classes are keys in Lightning's checkpoints
            plain = isinstance(key, (*_PLAIN, Global))
            if not plain or (isinstance(key, int) and abs(key) > _MAX_KEY):
                raise PickleError("has a key that is no plain value")
            target[key] = value
