"""Mapping networks conditioned on earlier levels: CHIMLE's parameters, search, frozen copies, and a
CAM-Net that becomes one without computing anything else."""

import re

import pytest
import torch

from imle import (
    CAMNet,
    CodeGenerator,
    load_reference,
    mapped,
    parameter_groups,
    reference_names,
    to_hierarchical,
)
from imle.search import search
from tests.imle.toys import mse

SMALL = dict(
    res=[4, 8, 16, 16], resid_nc=[5, 4, 3], dense_nc=[3, 4, 2], n_blocks=1, map_nc=6, latent_nc=8
)


def net(mapping="hierarchical", **change):
    torch.manual_seed(0)
    return CAMNet(**{**SMALL, "mapping": mapping, **change})


def mapping_std(model, codes):
    """Of w of every level: standard deviation over codes, root mean square over entries."""
    return [float(w.var(0).mean().sqrt()) for w in mapped(model, codes)]


def drawn(model, batch=3, seed=1):
    z = CodeGenerator(model.code_sizes, seed=seed)
    return [
        z.draw(level, 0, torch.arange(batch), torch.zeros(1, dtype=torch.int64))
        for level in range(model.levels)
    ]


def as_release(state):
    """Our names -> those of the code releases of CAM-Net and, if hierarchical, CHIMLE."""
    wide = state["levels.1.mapping_net.model.2.weight"]
    conditioned = wide.shape[1] > wide.shape[0]

    def name(key):
        level, part, rest = re.fullmatch(r"levels\.(\d+)\.(\w+)\.(.+)", key).groups()
        kind = {"mapping_net": "map", "feat_net": "feat", "style_block": "style"}.get(part, part)
        kind = {"out_conv": "out", "upsample_block": "up"}.get(kind, kind)
        if kind == "map":
            index, what = re.fullmatch(r"model\.(\d+)\.(\w+)", rest).groups()
            if conditioned:
                kind = "map_0" if index == "0" else "map"
                index = "0" if index == "0" else str(int(index) - 2)
            rest = f"{index}.{what}"
        if kind == "up":
            block, layer, what = re.fullmatch(r"model\.(\d)\.(\d)\.(\w+)", rest).groups()
            rest = f"{int(layer) if block == '0' else 2 + int(first_up(state, level))}.{what}"
        return f"level_{int(level) + 1}_{kind}.{rest}"

    return {name(key): value for key, value in state.items()}


def first_up(state, level):
    return f"levels.{level}.upsample_block.model.0.1.bias" in state


def test_parameters_are_chimles():
    with torch.device("meta"):
        for task, expected in (
            (dict(res=[32, 64, 128, 256, 512], feedback="raw"), 210_622_936),
            (
                dict(res=[32, 64, 128, 256, 256], in_nc=1, out_nc=2, head="ab", feedback="none"),
                210_614_288,
            ),
        ):
            nets = [CAMNet(mapping=m, **task) for m in ("independent", "hierarchical")]
            counts = [sum(p.numel() for p in n.parameters()) for n in nets]
            assert counts[1] == expected and counts[1] - counts[0] == 1_572_864
            assert [len(n.state_dict()) for n in nets] == [1252, 1252]
            widths = [s.mapping_net.model[2].in_features for s in nets[1].stages]
            assert widths == [512, 1024, 1536, 2048]


def test_earlier_codes_reach_later_styles_and_not_the_other_way():
    model = net()
    codes = drawn(model)
    w = mapped(model, codes)
    for level in range(3):
        other = [c.clone() for c in codes]
        other[level][:, :6] += 1
        moved = [not torch.equal(a, b) for a, b in zip(w, mapped(model, other), strict=True)]
        assert moved == [i >= level for i in range(3)]
    assert len(mapped(net("independent"), codes)) == 3


def test_styles_are_alive_from_the_start():
    codes = drawn(net(), batch=64)
    for mapping in ("independent", "hierarchical"):
        wide = net(mapping, latent_nc=32)
        assert all(0.3 < s < 3 for s in mapping_std(wide, codes)), mapping
        dead = net(mapping, latent_nc=32, mapping_init="reference")
        assert max(mapping_std(dead, codes)) < 1e-3


def test_the_mapping_is_in_the_learning_rates_of_mapping_nets():
    model = net()
    _, mapping = parameter_groups(model, 1.0, 0.01)
    assert len(mapping["params"]) == 3 * 16 and mapping["lr"] == 0.01


@pytest.mark.parametrize("channels_last", [False, True])
def test_frozen_copies_and_candidates_compute_the_same(channels_last):
    model = net().eval()
    x, codes = torch.rand(3, 3, 4, 4), drawn(model)
    with torch.no_grad():
        expected = model(x, codes)
        frozen = model.frozen_copy(channels_last=channels_last)(x, codes)
        torch.testing.assert_close(frozen, expected, atol=1e-5, rtol=1e-4)
        for level in range(3):
            many = torch.stack([codes[level], codes[level] + 1], 1).flatten(0, 1)
            both = model(x, [*codes[:level], many], loi=level)
            torch.testing.assert_close(both[::2], expected[level], atol=1e-6, rtol=1e-4)


def test_search_equals_brute_force_and_maps_earlier_levels_once():
    model = net().eval()
    x = torch.rand(2, 3, 4, 4)
    ys = [torch.rand(2, 3, r, r) for r in (8, 16, 16)]
    z, ids, ns = CodeGenerator(model.code_sizes, seed=5), torch.tensor([3, 9]), [4, 3, 5]
    rows = [0, 0, 0]  # that went through each mapping network, of the model or a copy of it

    def count(level):
        def hook(_, args, out):
            rows[level] += len(out)

        return hook

    hooks = [s.mapping_net.register_forward_hook(count(i)) for i, s in enumerate(model.stages)]
    found = search(model, mse, z, x, ys, ids, 0, ns, 2)
    for hook in hooks:
        hook.remove()
    assert rows == [2 * n for n in ns]  # candidates of the level itself, none for a later level
    for b in range(2):
        chosen = []
        for level, n in enumerate(ns):
            losses = []
            for k in range(n):
                code = z.draw(level, 0, ids[b : b + 1], torch.tensor([k]))
                with torch.no_grad():
                    fx = model(x[b : b + 1], [*chosen, code], loi=level)
                losses.append(float(mse(fx, ys[level][b : b + 1])))
            assert int(found.winners[b, level]) == losses.index(min(losses))
            chosen.append(z.draw(level, 0, ids[b : b + 1], found.winners[b, level][None]))
    low = search(model, mse, z, x, ys, ids, 0, ns, 2, precision="bf16", rescore=3)
    assert torch.equal(low.winners, found.winners)


def test_a_camnet_becomes_hierarchical_without_changing_its_function():
    before, after = net("independent"), net()
    state, widened = to_hierarchical(before.state_dict(), after)
    assert len(widened) == 2
    after.load_state_dict(state)
    x, codes = torch.rand(3, 3, 4, 4), drawn(before)
    with torch.no_grad():
        torch.testing.assert_close(after(x, codes), before(x, codes), atol=2e-7, rtol=0)
    assert to_hierarchical(after.state_dict(), after)[1] == []  # it is one already
    other = net("independent", latent_nc=12).state_dict()  # of another width: left alone
    assert to_hierarchical(other, after)[1] == []


@pytest.mark.parametrize("mapping", ["independent", "hierarchical"])
def test_weights_of_the_code_releases_by_our_names(mapping):
    source = net(mapping, feedback="raw", rgb_from="up", res=[4, 8, 16, 32])
    release = as_release(source.state_dict())
    assert ("level_2_map_0.0.bias" in release) == (mapping == "hierarchical")
    cfg = dict(task="Super_Resolution", res=[4, 8, 16, 32], code_nc=5, num_levels=3)
    loaded = load_reference(release, {**cfg, "feat_scales": [0.1, 0.2]})
    assert loaded.config["mapping"] == mapping
    x, codes = torch.rand(2, 3, 4, 4), drawn(source, 2)
    with torch.no_grad():
        torch.testing.assert_close(loaded(x, codes), source(x, codes))
    upgraded = net(feedback="raw", rgb_from="up", res=[4, 8, 16, 32])
    state, widened = to_hierarchical(reference_names(release, upgraded), upgraded)
    assert len(widened) == (2 if mapping == "independent" else 0)
    upgraded.load_state_dict(state)
    with torch.no_grad():
        torch.testing.assert_close(upgraded(x, codes), source(x, codes), atol=2e-7, rtol=0)
    with pytest.raises(ValueError, match="num_levels 4, the weights have 3"):
        load_reference(release, {**cfg, "num_levels": 4})


def test_our_own_names_load_too():
    source = net(res=[4, 8, 16, 32])
    cfg = dict(code_nc=5, res=[4, 8, 16, 32], feat_scales=[0, 0.1, 0.2])
    assert load_reference(source.state_dict(), cfg).config["mapping"] == "hierarchical"
