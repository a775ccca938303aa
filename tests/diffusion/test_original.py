import io
import os
import pickle
import random
import subprocess
import sys
import time

import pytest
import torch

from diffusion import original
from diffusion.edm2 import Block, Precond, UNet
from diffusion.encoders import make_encoder
from diffusion.mp import MPConv, MPFourier
from diffusion.original import convert, import_pickle
from diffusion.toy import MPLinear, MPSiLU, ToyModel
from generators.files import open_network
from storage.errors import CheckpointError, UsageError
from storage.snapshot import load_snapshot, save_snapshot
from tests.diffusion.edm2_pickles import EasyDict, Raw, dumps, put_modules, snapshot_dict

CLASSES = (Precond, UNet, Block, MPConv, MPFourier)
KWARGS = dict(
    img_resolution=16,
    img_channels=3,
    label_dim=7,
    use_fp16=True,
    model_channels=16,
    channel_mult=[1, 2],
    num_blocks=1,
    attn_resolutions=[8],
    channels_per_head=16,
    dropout=0.1,
)


@pytest.fixture(autouse=True)
def _modules(monkeypatch):
    put_modules(monkeypatch)


def small(seed=0, **changes):
    torch.manual_seed(seed)
    net = Precond(**{**KWARGS, **changes})
    with torch.no_grad():
        for p in net.parameters():
            p.copy_(torch.randn(p.shape))
    return net


def write(path, value, **options):
    path.write_bytes(dumps(value, classes=CLASSES, **options))
    return path


# ------------------------------------------------------------------------------------- good files


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_weights_arguments_and_facts_come_in(tmp_path, protocol):
    net = small().eval().requires_grad_(False)
    want = {k: v.half().float() for k, v in net.state_dict().items()}
    canary = tmp_path / "canary"
    source = f"import os\nos.system('touch {canary}')\nraise SystemExit\n"
    path = tmp_path / "edm2-img64-s-1073741-0.075.pkl"
    write(path, snapshot_dict(net, KWARGS), source=source, protocol=protocol)
    said = []
    snapshot = open_network(path, said.append)
    assert said == [f"imported {path.name}: {len(want)} tensors; the code in the file was ignored"]
    assert not canary.exists() and snapshot.kind == "edm2"
    assert set(snapshot.state_dict) == set(want)
    for name, value in want.items():
        got = snapshot.state_dict[name]
        assert got.dtype == torch.float32 and got.is_contiguous() and torch.equal(got, value), name
    config = snapshot.config
    rebuilt = Precond(**config["net"])
    rebuilt.load_state_dict(snapshot.state_dict)
    assert rebuilt.config == net.config == config["net"]
    assert config["encoder"] == {"name": "rgb"} and config["sigma_data"] == 0.5
    assert config["loss"] == {"P_mean": -0.4, "P_std": 1.0}
    assert (config["ema_std"], config["nimg"]) == (0.075, 1024 << 20)
    assert snapshot.provenance["dataset"] == {"path": "datasets/img.zip", "use_labels": True}
    saved = save_snapshot(tmp_path / "again.safetensors", *snapshot)  # all of it is JSON
    assert load_snapshot(saved).config == config


def test_defaults_and_positional_arguments(tmp_path):
    torch.manual_seed(0)
    net = Precond(8, 3, 0, model_channels=8, channels_per_head=8)
    whole = snapshot_dict(net, {"model_channels": 8, "channels_per_head": 8})
    net.__dict__["_init_args"] = (8, 3, 0)
    snapshot = import_pickle(write(tmp_path / "a.pkl", whole))
    assert snapshot.config["net"] == net.config
    assert snapshot.config["nimg"] is None and snapshot.config["ema_std"] is None


def test_plain_module_classes_float32_and_bfloat16(tmp_path):
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        net = small()
        whole = snapshot_dict(net, KWARGS)
        net.to(dtype)
        snapshot = import_pickle(write(tmp_path / f"{dtype}.pkl", whole))
        for name, value in net.state_dict().items():
            assert torch.equal(snapshot.state_dict[name], value.float())


def test_views_of_a_storage(tmp_path):
    net = small()
    whole = snapshot_dict(net, KWARGS)
    weight = net.unet.emb_label.weight
    net.unet.emb_label.weight = torch.nn.Parameter(torch.randn(7, 40).half()[:, 3:35].t())
    assert net.unet.emb_label.weight.shape == weight.shape
    snapshot = import_pickle(write(tmp_path / "a.pkl", whole))
    want = net.unet.emb_label.weight.detach().float()
    assert torch.equal(snapshot.state_dict["unet.emb_label.weight"], want)


def test_stability_encoder(tmp_path):
    net = small(img_channels=4)
    vae = {"vae_name": "stabilityai/sd-vae-ft-mse", "raw_mean": [1, 2, 3, 4.5], "final_std": 0.5}
    kwargs = {**KWARGS, "img_channels": 4}
    whole = snapshot_dict(net, kwargs, encoder="vae", vae=vae)
    config = import_pickle(write(tmp_path / "a.pkl", whole)).config
    assert config["encoder"] == {
        "name": "stability-vae",
        "vae": "stabilityai/sd-vae-ft-mse",
        "raw_mean": [1, 2, 3, 4.5],
        "final_std": 0.5,
    }
    assert make_encoder(config["encoder"]).raw_mean == [1, 2, 3, 4.5]
    whole = snapshot_dict(net, kwargs, encoder="vae", vae={"vae_name": "/tmp/mine"})
    with pytest.raises(CheckpointError, match="names a VAE '/tmp/mine'"):
        import_pickle(write(tmp_path / "b.pkl", whole))


@pytest.mark.parametrize("as_dict", [False, True])
def test_toy_pickles(tmp_path, as_dict):
    torch.manual_seed(1)
    net = ToyModel(hidden_dim=16, num_layers=2)
    want = {k: v.clone() for k, v in net.state_dict().items()}
    net.__dict__["_init_kwargs"] = EasyDict(hidden_dim=16, num_layers=2)
    value = {"ema": net} if as_dict else net
    path = tmp_path / "iter0512.pkl"
    path.write_bytes(dumps(value, classes=(ToyModel, MPLinear, MPSiLU)))
    snapshot = import_pickle(path)
    assert snapshot.kind == "edm2-toy" and snapshot.config["net"] == net.config
    ToyModel(**snapshot.config["net"]).load_state_dict(snapshot.state_dict)
    assert all(torch.equal(snapshot.state_dict[k], v) for k, v in want.items())


def test_a_pkl_means_its_sibling_where_there_is_one(tmp_path):
    path = write(tmp_path / "network-snapshot-0005000-0.100.pkl", snapshot_dict(small(), KWARGS))
    said = []
    out = convert(path, say=said.append)
    assert out == path.with_suffix(".safetensors") and "code ignored" in said[0]
    with pytest.raises(CheckpointError, match="exists already"):
        convert(path)
    path.write_bytes(b"not read")
    for _ in range(2):  # the second time the .pkl itself is gone
        said = []
        snapshot = open_network(str(path), said.append)
        assert said == [f"{path.name}: taking {out} instead"] and snapshot.kind == "edm2"
        path.unlink(missing_ok=True)
    assert open_network(out, said.append).config == snapshot.config and len(said) == 1


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        ("https://a.b/edm2-img512-xs.pkl", UsageError, "download it first.*edm2-img512-xs.pkl"),
        ("missing.pkl", CheckpointError, "no such file .and no missing.safetensors beside it"),
        ("missing.safetensors", CheckpointError, "no such file"),
        ("weights.pt", CheckpointError, "no such file"),
    ],
)
def test_paths_that_are_none(path, error, message):
    with pytest.raises(error, match=message):
        open_network(path)


def test_command(tmp_path, capsys):
    path = write(tmp_path / "a.pkl", snapshot_dict(small(), KWARGS))
    assert original.main([str(path)]) == 0 and (tmp_path / "a.safetensors").is_file()
    assert original.main([str(path)]) == 3 and original.main([]) == 2
    (tmp_path / "b.pkl").write_bytes(b"cos\nsystem\n.")
    assert original.main([str(tmp_path / "b.pkl")]) == 3
    assert not (tmp_path / "b.safetensors").exists()
    assert "refused: global os.system" in capsys.readouterr().err


def test_the_former_spelling_of_the_command_goes_on_working(tmp_path):
    path = write(tmp_path / "a.pkl", snapshot_dict(small(), KWARGS))
    command = [sys.executable, "-m", "runtime.networks"]
    for words, code in (([str(path)], 0), ([str(path)], 3), ([], 2)):
        done = subprocess.run([*command, *words], capture_output=True, text=True)
        assert done.returncode == code and "Traceback" not in done.stderr, done.stderr
    assert (tmp_path / "a.safetensors").is_file()


# ---------------------------------------------------------------------------------------- bad files


def call_of(canary):
    return Raw(os.system, (f"touch {canary}",))


def evaluation(canary):
    return Raw(eval, (f"open({str(canary)!r}, 'w').close()",))


def in_storage(canary):
    """A storage whose own pickle calls something."""
    data = io.BytesIO()
    torch.save(call_of(canary), data, _use_new_zipfile_serialization=False)
    return Raw(torch.storage._load_from_bytes, (data.getvalue(),))


def in_zip_storage(canary):
    data = io.BytesIO()
    torch.save(call_of(canary), data)
    return Raw(torch.storage._load_from_bytes, (data.getvalue(),))


POISONED = {
    "root": lambda whole, bad: bad,
    "key": lambda whole, bad: {**whole, "more": bad},
    "encoder": lambda whole, bad: {**whole, "encoder": bad},
    "dataset": lambda whole, bad: {**whole, "dataset_kwargs": {"path": bad}},
    "argument": lambda whole, bad: whole["ema"]._init_kwargs.update(dropout=bad) or whole,
    "module": lambda whole, bad: whole["ema"]._modules.update(more=bad) or whole,
    "parameter": lambda whole, bad: whole["ema"]._parameters.update(more=bad) or whole,
    "hook": lambda whole, bad: whole["ema"]._forward_hooks.update({1: bad}) or whole,
}


@pytest.mark.parametrize("where", POISONED)
@pytest.mark.parametrize(
    ("payload", "name"), [(call_of, r"(posix|nt)\.system"), (evaluation, r"builtins\.eval")]
)
def test_poisoned_copies_are_refused_by_name(tmp_path, where, payload, name):
    canary = tmp_path / "canary"
    whole = POISONED[where](snapshot_dict(small(), KWARGS), payload(canary))
    path = write(tmp_path / "a.pkl", whole)
    with pytest.raises(CheckpointError, match=rf"^refused: global {name} in \S+a.pkl$"):
        open_network(path)
    assert not canary.exists()


@pytest.mark.parametrize("payload", [in_storage, in_zip_storage])
def test_poison_inside_a_storage(tmp_path, payload):
    canary = tmp_path / "canary"
    whole = POISONED["parameter"](snapshot_dict(small(), KWARGS), payload(canary))
    with pytest.raises(CheckpointError, match="refused: global posix.system|storage|damaged"):
        open_network(write(tmp_path / "a.pkl", whole))
    assert not canary.exists()


def test_poison_in_place_of_the_source(tmp_path):
    canary = tmp_path / "canary"
    for bad in (call_of(canary), evaluation(canary)):
        whole = snapshot_dict(small(), KWARGS)
        with pytest.raises(CheckpointError, match="refused: global"):
            open_network(write(tmp_path / "a.pkl", whole, source=bad))
    assert not canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        "torch.load", "torch.hub.load", "torch.nn.modules.module.os.system", "builtins.getattr",
        "torch.nn.modules.utils.os", "runpy._run_code", "functools.partial", "numpy.load",
        "torch_utils.persistence.exec", "diffusion.edm2.Precond", "numpy.testing._private.utils.os",
    ],
)  # fmt: skip
def test_only_listed_globals(tmp_path, name):
    module, _, last = name.rpartition(".")
    data = b"\x80\x04c" + f"{module}\n{last}\n".encode() + b"."
    (tmp_path / "a.pkl").write_bytes(data)
    if name == "torch.nn.modules.utils.os":  # passes as a name, and stays one
        with pytest.raises(CheckpointError, match="holds no network"):
            open_network(tmp_path / "a.pkl")
        return
    with pytest.raises(CheckpointError, match=f"refused: global {name} in"):
        open_network(tmp_path / "a.pkl")


def test_nothing_is_looked_up_compiled_or_run(tmp_path):
    path = write(tmp_path / "a.pkl", snapshot_dict(small(), KWARGS), source="x = 1")
    import_pickle(path)
    seen, watching = [], [True]

    def hook(event, args):
        if watching and event in ("exec", "compile", "import", "pickle.find_class", "os.system"):
            seen.append((event, args))

    sys.addaudithook(hook)
    try:
        import_pickle(path)
        assert seen == []
        pickle.loads(b"ccollections\nOrderedDict\n.")
        assert seen  # the hook does see such things
    finally:
        watching.clear()


def with_tensor(tmp_path, make):
    whole = snapshot_dict(small(), KWARGS)
    whole["ema"].unet.enc["16x16_conv"]._parameters["weight"] = make
    return write(tmp_path / "a.pkl", whole)


def storage_bytes(values):
    """What the pickle of a tensor holds of its storage."""
    seen = []

    class Spy(pickle.Pickler):
        def reducer_override(self, obj):
            if isinstance(obj, torch.storage.TypedStorage):
                seen.append(obj.__reduce__()[1][0])
            return NotImplemented

    Spy(io.BytesIO()).dump(torch.tensor(values))
    return seen[0]


@pytest.mark.parametrize(
    ("offset", "size", "stride"),
    [
        (0, (1 << 40,), (0,)),
        (0, (1 << 20, 1 << 20, 1 << 20), (0, 0, 0)),
        (0, (16, 4, 3, 3), (36, 9, 3, 1)),
        (3, (2,), (1,)),
        (-1, (2,), (1,)),
        (0, (-1,), (1,)),
        (0, (2,), (-1,)),
        (0, (2, 2), (1,)),
        (0, (1,) * 9, (1,) * 9),
        (0, (True,), (1,)),
        (0, (1,), (1 << 61,)),
        (0, (0, 1 << 70), (1, 1)),
        (0, [2], [1]),
        (0, "ab", "cd"),
    ],
)
def test_shapes_that_lie(tmp_path, offset, size, stride):
    storage = Raw(torch.storage._load_from_bytes, (storage_bytes([1.0, 2.0, 3.0, 4.0]),))
    tensor = Raw(torch._utils._rebuild_tensor_v2, (storage, offset, size, stride, False, {}))
    with pytest.raises(CheckpointError, match="has a tensor") as caught:
        open_network(with_tensor(tmp_path, tensor))
    assert "\n" not in str(caught.value)


def test_storages_that_lie(tmp_path):
    good = storage_bytes([1.0, 2.0, 3.0, 4.0])
    huge = (1 << 40).to_bytes(8, "little")
    counted = good[: -4 * 4 - 8] + huge + good[-16:]
    inside = good.replace(b"K\x04N", b"\x8a\x06" + (1 << 40).to_bytes(6, "little") + b"N")
    for data in (counted, inside, good[:-1], good + b"x", b"", good[:50], "text", None):
        storage = Raw(torch.storage._load_from_bytes, (data,))
        tensor = Raw(torch._utils._rebuild_tensor_v2, (storage, 0, (4,), (1,), False, {}))
        with pytest.raises(CheckpointError, match="not a usable EDM2 pickle"):
            open_network(with_tensor(tmp_path, tensor))


def test_one_storage_under_many_names(tmp_path):
    storage = Raw(torch.storage._load_from_bytes, (storage_bytes([0.0] * 10_000),))
    tensor = Raw(torch._utils._rebuild_tensor_v2, (storage, 0, (10_000,), (1,), False, {}))
    whole = snapshot_dict(small(), KWARGS)
    whole["ema"]._buffers.update({f"b{k}": tensor for k in range(2000)})
    with pytest.raises(CheckpointError, match="weights in a file of"):
        open_network(write(tmp_path / "a.pkl", whole))


def test_modules_in_themselves(tmp_path):
    loop = torch.nn.ModuleDict()
    loop._modules["again"] = loop
    twice = torch.nn.ModuleDict()
    for _ in range(60):
        outer = torch.nn.ModuleDict()
        outer._modules.update(a=twice, b=twice)
        twice = outer
    started = time.perf_counter()
    for more in (loop, twice):
        whole = snapshot_dict(small(), KWARGS)
        whole["ema"]._modules["more"] = more
        with pytest.raises(CheckpointError, match="no module at|more than 100000 modules"):
            open_network(write(tmp_path / "a.pkl", whole))
    assert time.perf_counter() - started < 5


def test_tables_that_many_modules_share(tmp_path):
    entries = {f"k{i}": None for i in range(50_000)}
    for kind, table in (
        ("_parameters", entries),
        ("_buffers", entries),
        ("_non_persistent_buffers_set", list(entries)),
        ("_parameters", {"n" * 1_000_000: None}),
    ):
        inner = torch.nn.Module()
        inner.__dict__[kind] = table
        whole = snapshot_dict(small(), KWARGS)
        whole["ema"]._modules.update({f"m{i}": inner for i in range(20_000)})
        path = write(tmp_path / "a.pkl", whole)
        started = time.perf_counter()
        with pytest.raises(CheckpointError, match="more than 100000 modules|no _parameters"):
            open_network(path)
        assert time.perf_counter() - started < 10


NESTED = [1]
for _ in range(80):
    NESTED = [NESTED, NESTED]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"img_resolution": 10**9}, "img_resolution 1000000000"),
        ({"img_resolution": 32}, "no weights unet.enc.32x32_block0"),
        ({"model_channels": 4096}, "which its arguments do not give"),
        ({"model_channels": 10**100}, "model_channels a huge number"),
        ({"channel_mult": [1, 1000]}, "which its arguments do not give"),
        ({"channel_mult": []}, "no levels"),
        ({"channel_mult": [1, 2, 4]}, "which its arguments do not give"),
        ({"channel_mult": NESTED}, "channel_mult .\\.\\.\\., \\.\\.\\.."),
        ({"num_blocks": 2}, "no weights"),
        ({"num_blocks": 10**6}, "num_blocks 1000000"),
        ({"label_dim": 6}, "unet.emb_label.weight of shape .32, 7."),
        ({"label_dim": "7"}, "label_dim '7'"),
        ({"img_channels": 4}, "unet.out_conv.weight"),
        ({"logvar_channels": 64}, "logvar_linear.weight"),
        ({"dropout": float("nan")}, "dropout nan"),
        ({"use_fp16": 1}, "use_fp16 1"),
        ({"surprise": 1}, "unknown argument surprise"),
        ({"channel_mult_emb": 99}, "unet.emb_noise.weight"),
    ],
)
def test_arguments_that_lie(tmp_path, change, message):
    whole = snapshot_dict(small(), {**KWARGS, **change})
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=message) as caught:
        open_network(write(tmp_path / "a.pkl", whole))
    assert time.perf_counter() - started < 5 and len(str(caught.value)) < 500


def test_other_things_in_a_pkl(tmp_path):
    for value, message in (
        ({"ema": None}, "no network"),
        ([1, 2], "no network"),
        ({"net": torch.nn.Linear(2, 2)}, "holds a Linear"),
        ({"ema": 5}, "no network"),
        (snapshot_dict(small(), {"label_dim": 7}), "without its img_resolution"),
    ):
        with pytest.raises(CheckpointError, match=message):
            open_network(write(tmp_path / "a.pkl", value))
    for data in (b"", b"<html>quota</html>", b"PK\x03\x04junk", bytes(1000)):
        (tmp_path / "a.pkl").write_bytes(data)
        message = "not a zip file" if data[:2] == b"PK" else "not a usable EDM2 pickle"
        with pytest.raises(CheckpointError, match=message):
            open_network(tmp_path / "a.pkl")


def test_random_damage(tmp_path):
    rng = random.Random(0)
    net = Precond(4, 3, 2, model_channels=2, channel_mult=[1], num_blocks=1, logvar_channels=2)
    kwargs = dict(img_resolution=4, img_channels=3, label_dim=2, model_channels=2)
    kwargs.update(channel_mult=[1], num_blocks=1, logvar_channels=2)
    good = dumps(snapshot_dict(net, kwargs), classes=CLASSES)
    path = tmp_path / "a.pkl"
    outcomes = set()
    for turn in range(250):
        data = bytearray(good)
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] = rng.randrange(256)
        if turn % 5 == 0:
            del data[rng.randrange(len(data)) :]
        path.write_bytes(data)
        try:
            open_network(path, lambda line: None)
            outcomes.add("read")
        except CheckpointError as error:
            outcomes.add("refused")
            assert "\n" not in str(error) and len(str(error)) < 500
    assert outcomes == {"read", "refused"}


def test_lengths_are_not_believed(tmp_path):
    resource = pytest.importorskip("resource")
    bomb = b"\x80\x04\x8e" + (1 << 44).to_bytes(8, "little")
    (tmp_path / "a.pkl").write_bytes(bomb + bytes(1000))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match="bytes follow"):
        open_network(tmp_path / "a.pkl")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50 << 10
