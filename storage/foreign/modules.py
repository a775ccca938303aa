"""Whole pickles of torch modules, read as data: nothing of a file is imported, compiled or run.

NVIDIA's `.pkl` files hold Python source that a plain `pickle.load` runs. Here tensors, constructor
arguments and a few plain values come in, the source is skipped, and a file that names anything else
is refused (`storage.foreign.pickles`). Files of torch.save are for `storage.foreign.objects`.
"""

from __future__ import annotations

import io
import math
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, NamedTuple

import torch

from storage.errors import CheckpointError, one_line
from storage.files import open_plain
from storage.foreign.pickles import Global, Inert, PickleError, Refused, Span, read_pickle

_GLOBALS = frozenset(
    "collections.OrderedDict copyreg._reconstructor copy_reg._reconstructor _codecs.encode "
    "builtins.object builtins.set builtins.frozenset builtins.bytearray "
    "__builtin__.object __builtin__.set __builtin__.frozenset "
    "numpy.dtype numpy.ndarray numpy.core.multiarray._reconstruct numpy.core.multiarray.scalar "
    "numpy._core.multiarray._reconstruct numpy._core.multiarray.scalar "
    "torch.device torch.Size torch.float16 torch.float32 torch.float64 torch.bfloat16 "
    "torch._utils._rebuild_tensor torch._utils._rebuild_tensor_v2 torch._utils._rebuild_parameter "
    "torch._utils._rebuild_parameter_with_state torch.nn.parameter.Parameter "
    "torch.storage._load_from_bytes".split()
)
# Module classes, whose state is all that counts; the two helpers that NVIDIA's repository and
# copies of it keep in modules of various names.
_PATTERNS = re.compile(
    r"torch\.nn\.modules\.\w+\.\w+"
    r"|(\w+\.)*persistence\._reconstruct_persistent_obj"
    r"|(\w+\.)*util\.EasyDict"
)
STORAGES = {
    "torch.HalfStorage": torch.float16,
    "torch.BFloat16Storage": torch.bfloat16,
    "torch.FloatStorage": torch.float32,
    "torch.DoubleStorage": torch.float64,
    "torch.LongStorage": torch.int64,
    "torch.IntStorage": torch.int32,
    "torch.ShortStorage": torch.int16,
    "torch.CharStorage": torch.int8,
    "torch.ByteStorage": torch.uint8,
    "torch.BoolStorage": torch.bool,
}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before it wrote zips
_MAX_ENTRIES = 100_000
_STORAGE_OPS = 1000
_UNREAD = 1 << 16  # bytes from which numbers stay in the file until they are wanted
_HEADER = 1 << 12  # of a storage: far more than the small pickles before its numbers take
_MAX_STEP = 1 << 48  # of an offset, size or stride, in numbers; in bytes it still fits an int64


class Whole:
    """The file that storages are read from, as it was when it was understood."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path, self.known = path, self._identity(file)

    @staticmethod
    def _identity(file: IO[bytes]) -> tuple[int, ...]:
        seen = os.fstat(file.fileno())
        return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns

    def read(self, offset: int, count: int) -> bytearray:
        """`count` bytes from `offset` on. Raises PickleError if the file is another one by now."""
        data = bytearray(count)
        with open(self.path, "rb", buffering=0) as file:
            file.seek(offset)
            got, view = 0, memoryview(data)
            while got < count and (n := file.readinto(view[got:])):
                got += n
            if got < count or self._identity(file) != self.known:
                raise PickleError("was changed while it was read")
        return data


class Storage:
    """The numbers under tensors: the bytes `data`, or `span` of them still in a file, whose
    checksum is `crc` if one is known: it is compared where all of them are read."""

    def __init__(
        self,
        dtype: torch.dtype,
        data: memoryview | None = None,
        file: Whole | None = None,
        span: Span | None = None,
        crc: int | None = None,
    ) -> None:
        self.dtype, self._data, self._file, self._span = dtype, data, file, span
        self._crc = crc
        held = len(data) if data is not None else span.length if span is not None else 0
        self.numel = held // dtype.itemsize

    def part(self, first: int, count: int, *, keep: bool = False) -> torch.Tensor:
        """Numbers `first` to `first + count`, flat, not to be written to.

        keep: read all of the storage from the file, once, as for views that overlap in it.
        """
        if self._data is None and self._file is not None and self._span is not None:
            step = self.dtype.itemsize
            if not keep:
                data = self._read(self._file, first * step, count * step)
                return torch.frombuffer(data, dtype=self.dtype) if data else self._none()
            self._data = memoryview(self._read(self._file, 0, self._span.length))
        if self._data is None or not count:
            return self._none()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that bytes are read-only: nobody writes
            return torch.frombuffer(self._data, dtype=self.dtype)[first : first + count]

    def _read(self, file: Whole, begin: int, count: int) -> bytearray:
        assert self._span is not None, "what is not in memory is in a file"
        data = file.read(self._span.offset + begin, count)
        if self._crc is not None and count == self._span.length and zlib.crc32(data) != self._crc:
            raise PickleError("is damaged: numbers of it are not those of their checksum")
        return data

    def _none(self) -> torch.Tensor:
        return torch.empty(0, dtype=self.dtype)


class StoredTensor(NamedTuple):
    """A view of a storage, checked to lie inside it; made only when it is wanted.

    size, stride and offset in numbers; `make` gives float32 and `load` its own type, contiguous, of
    its own memory.
    """

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    def numel(self) -> int:
        """How many numbers it has."""
        return math.prod(self.size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Its size, by the name that tensors have for it."""
        return self.size

    @property
    def dtype(self) -> torch.dtype:
        """The type of its numbers in the file."""
        return self.storage.dtype

    def make(self) -> torch.Tensor:
        """float32, contiguous, of its own memory; only its own numbers are read from a file."""
        return self.load(torch.float32)

    def load(self, dtype: torch.dtype | None = None) -> torch.Tensor:
        """As `make`, of this type; None: of its own."""
        dtype = self.dtype if dtype is None else dtype
        steps = zip(self.size, self.stride, strict=True)
        count = self.numel() and 1 + sum((n - 1) * step for n, step in steps)
        # A view with gaps, or of numbers that others have too, may be one of many of them.
        keep = count != self.numel()
        flat = self.storage.part(self.offset, count, keep=keep)
        if not count:
            return torch.empty(self.size, dtype=dtype)
        made = torch.empty(self.size, dtype=dtype)
        return made.copy_(torch.as_strided(flat, self.size, self.stride))


def read_modules(path: Path, classes: re.Pattern[str], names: set[str] | None = None) -> Any:
    """The value in a pickle: containers and plain values as they are, modules and other objects as
    `Inert`, tensors as `StoredTensor`.

    classes: names `module.Class` that may occur beside those of torch, as a pattern. names: gets
    all that occur, which tells whose code wrote the file. Raises PickleError (`Refused` for a name
    that is not expected), OSError; see `reading`.

    The numbers of large tensors stay in the file until they are made, which must not change till
    then: memory is that of what is made.
    """

    def allowed(name: str) -> bool:
        if names is not None:
            names.add(name)
        listed = name in _GLOBALS or _PATTERNS.fullmatch(name) is not None
        return listed or classes.fullmatch(name) is not None

    with open_plain(path) as file:
        whole = Whole(path, file)
        return read_pickle(
            file,
            allowed=allowed,
            call=lambda name, args: _call(name, args, whole),
            unread=_UNREAD,
        )


@contextmanager
def reading(path: Path, what: str) -> Iterator[None]:
    """Whatever is wrong with a file, as CheckpointError of one line: "not a usable WHAT"."""
    try:
        yield
    except Refused as error:
        raise CheckpointError(f"refused: global {error.name} in {path}") from None
    except PickleError as error:
        raise CheckpointError(f"{path}: not a usable {what}: {error}") from None
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (TypeError, ValueError, KeyError, AttributeError, RecursionError) as error:
        # made of the right pieces in a way that nobody writes
        said = one_line(error, 120)
        raise CheckpointError(f"{path}: not a usable {what} ({said})") from None


def _call(name: str, args: tuple, whole: Whole) -> Any:
    """What stands for calling `name`: values for the few that carry them, else a description."""
    last = name.rsplit(".", 1)[-1]
    if last in ("OrderedDict", "EasyDict"):
        return _pairs(args)
    if last in ("set", "frozenset"):
        return list(args[0]) if args and isinstance(args[0], list) else []
    if name == "_codecs.encode":
        text, code = (*args, None, None)[:2]
        if not isinstance(text, str) or code not in ("latin1", "latin-1"):
            raise PickleError("encodes a string in an unknown way")
        return text.encode("latin-1")
    if last in ("_rebuild_tensor", "_rebuild_tensor_v2"):
        return stored_tensor(*_first(args, 4, name))
    if last in ("_rebuild_parameter", "_rebuild_parameter_with_state", "Parameter"):
        return _first(args, 1, name)[0]
    if last == "_load_from_bytes":
        return _storage(_first(args, 1, name)[0], whole)
    if last == "_reconstruct_persistent_obj":
        return _persistent(_first(args, 1, name)[0])
    if last == "_reconstructor":
        cls = _first(args, 1, name)[0]
        return Inert(cls.name if isinstance(cls, Global) else "?")
    return Inert(name, args)


def _first(args: tuple, count: int, name: str) -> tuple:
    if len(args) < count:
        raise PickleError(f"calls {name} with {len(args)} arguments")
    return args[:count]


def _pairs(args: tuple) -> dict:
    if not args:
        return {}
    pairs = args[0].items() if isinstance(args[0], dict) else args[0]
    result = {}
    for pair in pairs if isinstance(args[0], (list, dict)) else [None]:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or not isinstance(pair[0], str):
            raise PickleError("has a dict that is not made of names and values")
        result[pair[0]] = pair[1]
    return result


def _persistent(meta: Any) -> Inert:
    """A persistent object's class name and state; the source beside them is not looked at."""
    if not isinstance(meta, dict) or meta.get("type") != "class":
        raise PickleError("has a persistent object that is no class")
    name, state = meta.get("class_name"), meta.get("state")
    if (
        isinstance(name, str)
        and len(name) < 200
        and name.isidentifier()
        and isinstance(state, dict)
    ):
        return Inert(name, state=state)
    raise PickleError("has a persistent object without a name or a state")


def _storage(given: Any, whole: Whole) -> Storage:
    """A storage in torch.save's old format: four small pickles, the count, the numbers."""
    if not isinstance(given, (bytes, Span)):
        raise PickleError("has a tensor storage that is no bytes")
    span = given if isinstance(given, Span) else None
    if isinstance(given, Span):
        data = bytes(whole.read(given.offset, min(_HEADER, given.length)))
    else:
        data = given
    file = io.BytesIO(data)

    def persistent(key: Any) -> tuple:
        if not isinstance(key, tuple) or len(key) < 5 or key[0] != "storage":
            raise PickleError("has a tensor storage of an unknown form")
        kind, count = key[1], key[4]
        if not isinstance(kind, Global) or type(count) is not int or any(key[5:]):
            raise PickleError("has a tensor storage of an unknown form")
        return (STORAGES[kind.name], count)

    def part(allowed: Callable[[str], bool] = lambda name: False, **options: Any) -> Any:
        return read_pickle(file, allowed=allowed, call=Inert, max_ops=_STORAGE_OPS, **options)

    if part() != LEGACY_MAGIC:
        raise PickleError("has a tensor storage in a format that is not torch.save's old one")
    part()  # the version of the protocol
    system = part()
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise PickleError("was written on a big-endian machine")
    found = part(STORAGES.__contains__, persistent=persistent)
    part()  # the list of keys
    if not isinstance(found, tuple) or len(found) != 2 or not isinstance(found[0], torch.dtype):
        raise PickleError("has a tensor storage of an unknown form")
    dtype, count = found
    begin = file.tell() + 8
    said = int.from_bytes(data[begin - 8 : begin], "little", signed=True)
    there = len(given) - begin
    if said != count or count < 0 or count * dtype.itemsize != there:
        raise PickleError(f"has a storage of {count} numbers ({said} again) in {there} bytes")
    if span is None:
        return Storage(dtype, memoryview(data)[begin:])
    return Storage(dtype, file=whole, span=Span(span.offset + begin, there))


def stored_tensor(storage: Any, offset: Any, size: Any, stride: Any) -> StoredTensor:
    """A view of a storage, as a file says it. Errors: PickleError for one that cannot be."""
    if not isinstance(storage, Storage):
        raise PickleError("has a tensor without a storage")
    numbers = (
        (offset, *size, *stride)
        if isinstance(size, tuple) and isinstance(stride, tuple)
        else (None,)
    )
    if any(type(v) is not int or not 0 <= v <= _MAX_STEP for v in numbers) or len(size) != len(
        stride
    ):
        raise PickleError("has a tensor whose shape is no list of numbers")
    if len(size) > 8:
        raise PickleError(f"has a tensor of {len(size)} dimensions")
    tensor = StoredTensor(storage, offset, size, stride)
    held = storage.numel
    count = tensor.numel()
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if count and (last >= held or count > held):
        raise PickleError(f"has a tensor of shape {list(size)} in a storage of {held} numbers")
    return tensor


# --------------------------------------------------------------------------- what objects stand for


def keywords(thing: Any) -> dict[str, Any]:
    """Constructor arguments given by name; those by position are not told apart here."""
    state = thing.state if isinstance(thing, Inert) else None
    kwargs = state.get("_init_kwargs") if isinstance(state, dict) else None
    return kwargs if isinstance(kwargs, dict) else {}


def tensors_of(net: Inert) -> dict[str, StoredTensor]:
    """Parameters and persistent buffers of a module and those inside, by state-dict name."""
    out: dict[str, StoredTensor] = {}
    pending: list[tuple[Any, str]] = [(net, "")]
    visited = 0  # modules and entries, also of a table that many modules share
    while pending:
        module, prefix = pending.pop()
        visited += 1
        state = module.state if isinstance(module, Inert) else None
        if not isinstance(state, dict) or len(prefix) > 1000:
            raise PickleError(f"has no module at {ascii(prefix[:80])}")
        listed = state.get("_non_persistent_buffers_set")
        listed = listed if isinstance(listed, list) else []
        parameters, buffers, modules = (
            _table(state, kind, prefix) for kind in ("_parameters", "_buffers", "_modules")
        )
        visited += len(listed) + len(parameters) + len(buffers) + len(modules)
        if visited > _MAX_ENTRIES:
            raise PickleError(f"has more than {_MAX_ENTRIES} modules or tensors")
        skipped = {name for name in listed if isinstance(name, str)}
        for kind, table in (("parameter", parameters), ("buffer", buffers)):
            for name, value in table.items():
                if value is None or (kind == "buffer" and name in skipped):
                    continue
                if not isinstance(value, StoredTensor):
                    raise PickleError(f"has no tensor at {ascii((prefix + name)[:80])}")
                out[prefix + name] = value
        inside = [(m, f"{prefix}{name}.") for name, m in modules.items() if m is not None]
        pending += reversed(inside)
    return out


def _table(state: dict, kind: str, prefix: str) -> dict[str, Any]:
    table = state.get(kind, {})
    if not isinstance(table, dict) or len(table) > _MAX_ENTRIES:
        raise PickleError(f"has no {kind} at {ascii(prefix[:80])}")
    if not all(isinstance(k, str) and len(k) < 200 for k in table):
        raise PickleError(f"has no {kind} at {ascii(prefix[:80])}")
    return table
