import io
import pickle
import random
import time
from collections import OrderedDict

import pytest

from storage.foreign.pickles import Global, Inert, PickleError, Refused, read_pickle


def read(data, allowed=lambda name: False, call=Inert, **options):
    return read_pickle(io.BytesIO(data), allowed=allowed, call=call, **options)


PLAIN = {
    "a": [1, -2, 3 << 70, 2.5, True, False, None, "é", b"\0\xff", bytearray(b"xy")],
    "b": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    3: {"deep": [[[[]]]]},
    "long": "x" * 1000,
}


@pytest.mark.parametrize("protocol", range(2, 6))
def test_plain_values_are_what_pickle_gives(protocol):
    allowed = {"builtins.bytearray", "__builtin__.bytearray", "_codecs.encode"}

    def call(name, args):
        if name == "_codecs.encode":
            return args[0].encode(args[1])
        return bytes(args[0]) if isinstance(args[0], bytes) else args[0].encode(args[1])

    value = read(pickle.dumps(PLAIN, protocol), allowed.__contains__, call)
    assert value["a"][:9] == PLAIN["a"][:9] and value["a"][9] == b"xy"
    assert {k: v for k, v in value.items() if k != "a"} == {
        k: v for k, v in PLAIN.items() if k != "a"
    }


def test_old_protocols():
    assert read(pickle.dumps([1, "a", 2.5, None, {"k": (1, 2)}], 0)) == [
        1, "a", 2.5, None, {"k": (1, 2)},
    ]  # fmt: skip
    assert read(pickle.dumps([1, {2: 3.5}], 1)) == [1, {2: 3.5}]


def test_shared_values_stay_shared():
    inner = [1]
    value = read(pickle.dumps([inner, inner]))
    assert value[0] is value[1]


def test_sets_and_position_behind_the_pickle():
    file = io.BytesIO(pickle.dumps({5}, 4) + b"rest")
    assert read_pickle(file, allowed=lambda n: False, call=Inert) == [5]
    assert file.read() == b"rest"


class Thing:
    def __init__(self):
        self.x = 1


def test_objects_stay_descriptions():
    value = read(pickle.dumps(Thing()), lambda name: name.endswith("Thing"))
    assert isinstance(value, Inert) and value.cls.endswith("Thing") and value.state == {"x": 1}
    value = read(pickle.dumps(OrderedDict(a=1)), lambda name: True)
    assert (value.cls, value.items) == ("collections.OrderedDict", [("a", 1)])
    assert read(pickle.dumps(len), lambda name: True) == Global("builtins.len")


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b"cos\nsystem\n(S'touch x'\ntR.", "os.system"),
        (b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x01x\x85R.", "posix.system"),
        (b"c__builtin__\neval\n.", "__builtin__.eval"),
        (b"\x80\x04\x8c\x02a\n\x8c\x03b\x1bc\x93.", r"'a\n.b\x1bc'"),
    ],
)
def test_other_globals_are_refused_by_name(data, name):
    with pytest.raises(Refused) as caught:
        read(data)
    assert caught.value.name == name


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged|end"),
        (b"\x80\x04", "damaged|end"),
        (b"hello", "damaged|unknown"),
        (b"<html>", "damaged"),
        (b"\x80\x04.", "not there"),
        (b"\x80\x04]].", "left over"),
        (b"\x80\x04h\x05.", "damaged"),
        (b"(.", "not there"),
        (b"]N\x85b0.", "not there|damaged|left"),
        (b"NNs.", "not there|no dict"),
        (b"u.", "no mark"),
        (b"]e.", "no mark"),
        (b"}(Nu.", "without a value"),
        (b"K\x01(K\x02e.", "no list"),
        (b"}](NNd\x85u.", "no mark|plain|damaged|no dict"),
        (b"}((ltNs.", "plain"),
        (b"ios\nsystem\n.", "INST"),
        (b"(NoN.", "OBJ"),
        (b"P1\n.", "PERSID"),
        (b"NQ.", "BINPERSID"),
        (b"\x82\x01.", "EXT1"),
        (b"\x97.", "NEXT_BUFFER"),
        (b"K\x01)R.", "no name"),
        (b"K\x01)\x81.", "no class"),
    ],
)
def test_malformed(data, message):
    with pytest.raises(PickleError, match=message):
        read(data)


@pytest.mark.parametrize(
    "data",
    [
        b"\x80\x04\x8e" + (1 << 40).to_bytes(8, "little") + b"abc.",  # 1 TB of bytes
        b"\x80\x04\x8d" + (1 << 62).to_bytes(8, "little") + b"abc.",
        b"\x80\x04B\xff\xff\xff\xffabc.",
        b"\x80\x02\x8b\xff\xff\xff\x7f1.",  # a number of 2 GB
        b"\x80\x04]" + b"2" * 50 + b"\x96" + (1 << 50).to_bytes(8, "little") + b".",
    ],
)
def test_lengths_that_are_not_there(data):
    with pytest.raises(PickleError, match="bytes follow"):
        read(data)


def test_work_is_bounded():
    started = time.perf_counter()
    assert read(b"\x80\x04]r\xff\xff\xff\x7f.") == []  # memo number 2**31: a key, not an array
    doubled = b")" + b"2\x86" * 200  # ((x, x), (x, x)) ... 2**200 leaves
    assert isinstance(read(b"\x80\x04" + doubled + b"."), tuple)
    with pytest.raises(PickleError, match="no plain value"):
        read(b"\x80\x04}" + doubled + b"Ns.")
    with pytest.raises(PickleError, match="more than 1000 operations"):
        read(b"\x80\x04" + b"}" * 2000 + b".", max_ops=1000)
    value = read(b"\x80\x04" + b"]" * 5000 + b"a" * 4999 + b".")
    assert isinstance(value, list)
    while value:  # Python's own destructor of deep lists is fine; comparing would not be
        value = value[0]
    assert time.perf_counter() - started < 2


def test_one_value_handed_to_many_calls():
    # q\0: the callable; q\1: its arguments, both remembered, then called 20,000 times
    def bomb(arguments):
        return (
            b"\x80\x03](cbuiltins\nset\nq\x000"
            + arguments
            + b"q\x010"
            + b"h\0h\1R" * 20_000
            + b"e."
        )

    made = 0

    def call(name, args):
        nonlocal made
        made += len(args[0]) if len(args) == 1 else len(args)
        return list(args[0]) if len(args) == 1 else list(args)

    many = b"(" + b"N" * 50_000
    for arguments in (
        b"](" + many[1:] + b"e\x85",
        many + b"t",
        b"B" + (50_000).to_bytes(4, "little") + b"x" * 50_000 + b"\x85",
        b"X" + (50_000).to_bytes(4, "little") + b"x" * 50_000 + b"\x85",
    ):
        made = 0
        with pytest.raises(PickleError, match="over and over"):
            read(bomb(arguments), lambda name: True, call)
        assert made < 2_000_000
    assert len(read(bomb(b"N\x85"), lambda name: True)) == 20_000  # small ones are nothing


@pytest.mark.parametrize(
    ("data", "message"),
    [
        # whole numbers that all have the hash 0, as keys and as memo numbers
        (b"}(" + b"".join(b"\x8a\x0a" + (k * (2**61 - 1)).to_bytes(10, "little") + b"N"
                          for k in range(2, 9)) + b"u.", "no plain value"),
        (b"Np4611686018427387902\n.", "memo number"),
        (b"Np-1\n.", "memo number"),
        (b"\x8b\x10\x27\0\0" + b"\x01" * 10_000 + b".", "number of 79993 bits"),
    ],
)  # fmt: skip
def test_numbers_that_cost_time(data, message):
    with pytest.raises(PickleError, match=message):
        read(b"\x80\x02" + data)


def test_a_long_name_is_refused_even_where_all_are_allowed():
    name = b"X" + (100_000).to_bytes(4, "little") + b"a" * 100_000
    for first, last in ((name, b"X\1\0\0\0b"), (b"X\1\0\0\0b", name)):
        with pytest.raises(Refused) as caught:
            read(b"\x80\x04" + first + last + b"\x93.", lambda name: True)
        assert len(str(caught.value)) < 300


def test_random_damage_is_told_as_such():
    rng = random.Random(0)
    good = pickle.dumps([PLAIN, Thing(), OrderedDict(a=[1, 2, (3, 4)])])
    outcomes = set()
    for _ in range(1500):
        data = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if rng.random() < 0.3:
            del data[rng.randrange(len(data)) :]
        try:
            read(bytes(data), lambda name: True)
            outcomes.add("read")
        except PickleError as error:
            outcomes.add("refused")
            assert "\n" not in str(error)
    assert outcomes == {"read", "refused"}
