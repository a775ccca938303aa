"""omnigan's training step: which terms there are, where their gradients go, and the two phases."""

from __future__ import annotations

import pytest
import torch

from models.omnigan import (
    DOMAINS,
    EWC,
    Distillation,
    ExtraAdam,
    Shared,
    Weights,
    classifier_loss,
    clip_weights,
    discriminator_loss,
    freeze,
    generator_loss,
    make_losses,
    parameter_groups,
    phases,
    phases_of,
    set_lr,
    settled,
    task_losses,
    unfreeze,
)
from models.omnigan.shared import over_parts
from tests.models.omnigan.tiny import SIDE, batches, classifier, discriminators, generator

LOSSES = make_losses(soft_shift=0, flip_prob=0)
TABLE = {
    f"{d}/{task}/{head}"
    for d in DOMAINS
    for task, heads in (("a", "rs"), ("t", "fn"))
    for head in heads
}


def grads(module):
    return {name: p.grad for name, p in module.named_parameters() if p.grad is not None}


def test_three_domains_have_four_updates_each():
    three = ("rf", "rn", "sf")
    shared = Shared(generator(), batches(three))
    losses = make_losses(soft_shift=0, flip_prob=0)
    D, C = discriminators(), classifier(norm="group")
    for phases_ in (("representation",), ("translation",)):
        g = generator_loss(shared, D, C, losses, Weights(), phases_)
        assert {t for t in g.terms if t.startswith("t/gan")} <= {
            "t/gan/rf_to_rn", "t/gan/rn_to_rf",
        }  # fmt: skip
        for fakes in (g.fakes, None):
            found = discriminator_loss(shared, D, losses, fakes).terms
            assert set(found) - {"discriminator"} == {t for t in TABLE if t[:2] in three}


def test_the_sixteen_updates_of_the_discriminators():
    G, D = generator(), discriminators().eval()
    shared = Shared(G, batches())
    asked = []

    def loss(p, real, **_):
        asked.append(real)
        return p.float().mean() * (1 if real else -1)

    found = discriminator_loss(shared, D, {"D": loss})
    assert set(found.terms) == TABLE | {"discriminator"} and len(TABLE) == 16
    assert len(asked) == 16 and sum(asked) == 8
    # of a batch rf: real for r and f, fake for s and n
    z = shared.z["rf"]
    fake = {"a": G.adapt(z, "s"), "t": G.translate(z, G.conditioning(shared.decoded["rf"]), "n")}
    shown = {("a", "r"): shared.x["rf"], ("t", "f"): shared.x["rf"],
             ("a", "s"): fake["a"], ("t", "n"): fake["t"]}  # fmt: skip
    for (task, head), x in shown.items():
        value = float(D[task][head](x).mean()) * (1 if x is shared.x["rf"] else -1)
        assert abs(value - float(found.terms[f"rf/{task}/{head}"])) < 1e-5
    found.total.backward()
    assert not grads(G) and len(grads(D)) == len(list(D.parameters()))  # all of them are trained
    total = sum(float(v) for k, v in found.terms.items() if k in TABLE)
    assert abs(total - float(found.total)) < 1e-4


def test_one_encoder_pass_a_step_and_nothing_twice():
    G, D, C = generator(), discriminators(), classifier(norm="group")
    seen = []
    G.encoder.register_forward_hook(lambda m, i, o: seen.append(len(i[0])))
    shared = Shared(G, batches(n=2))
    g = generator_loss(shared, D, C, LOSSES, Weights(), ("representation",))
    assert seen == [8, 8]  # pictures, and the adapted ones
    with torch.no_grad():
        discriminator_loss(shared, D, LOSSES, g.fakes)
        classifier_loss(shared, C, LOSSES, Weights())
    assert seen == [8, 8] and set(g.fakes) == {"a", "t"}
    g.total.backward()
    assert not grads(D) and not grads(C) and grads(G)


def test_terms_of_the_phases():
    G, D, C = generator(), discriminators(), classifier()
    both = generator_loss(Shared(G, batches()), D, C, LOSSES, Weights())
    parts: dict[str, torch.Tensor] = {}
    for phase in ("representation", "translation"):
        found = generator_loss(Shared(G, batches()), D, C, LOSSES, Weights(), (phase,))
        parts |= found.terms
        assert torch.equal(found.terms[phase], found.terms["generator"])
    assert both.terms.keys() == parts.keys()
    assert abs(float(both.total - both.terms["representation"] - both.terms["translation"])) < 1e-3
    names = {name.split("/")[0] + "/" + name.split("/")[1] for name in parts if "/" in name}
    wanted = {"t/auto", "t/gan", "t/cycle", "t/sm", "t/dm", "t/hm", "a/auto", "a/gan", "a/cycle"}
    assert wanted | {f"task_loss/{task}" for task in "dhsw"} <= names
    with pytest.raises(ValueError, match="of representation, translation"):
        generator_loss(Shared(G, batches()), D, C, LOSSES, Weights(), ("both",))
    with pytest.raises(ValueError, match="it is one of rf, rn, sf, sn"):
        Shared(G, {"xx": {}})


@pytest.mark.parametrize(("name", "task"), [("t_sm", "s"), ("t_dm", "d"), ("t_hm", "h")])
def test_consistency_teaches_the_translation_and_no_decoder(name, task):
    # without a condition, by which a decoder learns what a translation needs of it
    G = generator(t={"form": "plain", "n_res": 1, "res_norm": "none"})
    none = {each: 0.0 for each in Weights.__dataclass_fields__}
    found = generator_loss(
        Shared(G, batches()), discriminators(), None, LOSSES, Weights(**{**none, name: 1.0}),
        ("translation",), "ones",
    )  # fmt: skip
    found.total.backward()
    assert all(g.any() for g in grads(G.decoders["t"]).values()) and grads(G.decoders["t"])
    assert any(g.any() for g in grads(G.encoder).values())
    assert not any(grads(G.decoders[each]) for each in G.conditions)
    assert all(p.requires_grad for p in G.parameters())
    value = found.terms[f"t/{name[2:]}/rn_to_rf"]
    shared = Shared(G, batches())
    fake = shared.translate({"rn": shared.z["rn"]}, shared.decoded, lambda d: "rf")["rn"]
    seen, real = G.decode_tasks(G.encode(fake))[task], shared.decoded["rn"][task]
    if task == "s":
        wanted = torch.nn.functional.cross_entropy(seen, real.argmax(1))
    else:
        wanted = (seen - real).square().mean()
    assert torch.allclose(value, wanted, rtol=1e-4)


@pytest.mark.parametrize("tasks", ["st", "dst", "dhwt", "wt"])
def test_a_translation_keeps_the_tasks_that_there_are(tasks):
    G, losses = (
        generator(tasks=tasks, **dict.fromkeys(set("adhsw") - set(tasks))),
        make_losses(tasks),
    )
    found = generator_loss(
        Shared(G, batches()), discriminators(tasks=tasks), None, losses, Weights(), ("translation",)
    )
    found.total.backward()
    kept = {name[2] for name in found.terms if name.startswith(("t/sm/", "t/dm/", "t/hm/"))}
    assert kept == set(tasks) & set("dhs") and grads(G.decoders["t"])


def test_the_mask_leaves_water_out():
    G, D = generator(), discriminators()
    torch.nn.init.constant_(G.decoders["w"].model[-1].conv.bias, -99)  # it sees no water
    flooded = batches()
    for batch in flooded.values():
        batch["data"]["w"] = torch.ones_like(batch["data"]["w"])
    for made, zero in ((flooded, True), (batches(), False)):
        terms = generator_loss(
            Shared(G, made), D, None, LOSSES, Weights(), ("translation",)
        ).terms  # fmt: skip
        assert (float(terms["t/dm/rn_to_rf"]) == 0) == zero
    # a sample without a label is masked by what the decoder sees
    made = flooded
    made["rn"]["present"] = {"w": torch.zeros(1, dtype=torch.bool)}
    terms = generator_loss(Shared(G, made), D, None, LOSSES, Weights(), ("translation",)).terms
    assert float(terms["t/dm/rn_to_rf"]) > 0
    torch.nn.init.constant_(G.decoders["w"].model[-1].conv.bias, 99)  # water everywhere
    terms = generator_loss(Shared(G, made), D, None, LOSSES, Weights(), ("translation",)).terms
    assert float(terms["t/dm/rn_to_rf"]) == 0


def test_a_flood_has_water_where_it_is_low():
    # without a condition, by which a decoder learns what a translation needs of it
    G, D = generator(t={"form": "plain", "n_res": 1, "res_norm": "none"}), discriminators()
    shared = Shared(G, batches())
    none = {each: 0.0 for each in Weights.__dataclass_fields__}
    heights = torch.linspace(0, 0.2, SIDE).view(1, 1, 1, SIDE).expand(1, 1, SIDE, SIDE)
    for decoded in shared.decoded.values():
        decoded["h"], decoded["w"] = heights, torch.full_like(heights, -9.0)
    weights = Weights(**{**none, "t_wm": 1.0})
    g = generator_loss(shared, D, None, LOSSES, weights, ("translation",), flood_height=0.1)
    assert {t for t in g.terms if "wm" in t} == {"t/wm/rn_to_rf", "t/wm/sn_to_sf"}
    fake = G.decode_tasks(G.encode(g.fakes["t"]["rn"]))["w"]
    target = torch.maximum((heights < 0.1).float(), torch.full_like(heights, -9.0).sigmoid())
    assert torch.allclose(g.terms["t/wm/rn_to_rf"], task_losses.bce(fake, target), atol=1e-4)
    g.total.backward()
    assert grads(G.decoders["t"]["f"]) and not any(map(len, map(grads, map(
        G.decoders.__getitem__, "dhsw"))))  # which are not taught to see it  # fmt: skip


def test_domains_and_labels_that_are_not_there():
    G, D, C = generator(), discriminators(), classifier()
    some = batches(("rf", "rn", "sn"), n=2)
    del some["rn"]["data"]["h"], some["rf"]["data"]["w"]
    some["rf"]["present"] = {"d": torch.tensor([True, False]), "s": torch.zeros(2).bool()}
    found = generator_loss(Shared(G, some), D, C, LOSSES, Weights())
    assert "task_loss/h/rn" not in found.terms and float(found.terms["task_loss/s/rf"]) == 0
    assert {n for n in found.terms if n.startswith("a/gan")} == {"a/gan/rn_to_sn", "a/gan/sn_to_rn"}
    assert {n for n in found.terms if n.startswith("t/gan")} == {"t/gan/rf_to_rn", "t/gan/rn_to_rf"}
    found.total.backward()
    first = some["rf"]["data"]["d"][:1]
    alone = (Shared(G, some).decoded["rf"]["d"][:1] - first).square().mean()
    assert abs(float(found.terms["task_loss/d/rf"] - alone)) < 1e-5
    shared = Shared(G, some)
    terms = discriminator_loss(shared, D, LOSSES).terms
    assert set(terms) - {"discriminator"} == {t for t in TABLE if t[:2] in some}


@pytest.mark.parametrize("form", ["plain", "spade-munit"])
def test_other_translations_and_scales(form):
    change = {"n_res": 1, "res_norm": "none"} if form == "plain" else {"n_res": 1}
    G, D = generator(t={"form": form, **change}), discriminators(num_D=2)
    weights = Weights(a_features=10, t_features=10, t_tv=1)
    made = batches(side=32)
    g = generator_loss(Shared(G, made), D, None, LOSSES, weights)
    assert {"t/features/rn_to_rf", "a/features/rf_to_sf", "t/tv/sf_to_sn"} <= g.terms.keys()
    g.total.backward()
    d = discriminator_loss(Shared(G, made), D, LOSSES, g.fakes, r1=1, gp=10)
    assert {"r1/a/r", "gp/t/n"} <= d.terms.keys()
    d.total.backward()
    assert len(grads(D)) == len(list(D.parameters()))


def test_batch_statistics_are_of_a_domain_s_own():
    C = classifier()
    z = {d: (torch.randn(2, 8, 4, 4),) for d in DOMAINS}
    apart = over_parts(C, C, z)
    assert all(torch.allclose(apart[d], C(z[d][0]), atol=1e-5) for d in DOMAINS)
    joint = over_parts(C.eval(), C, z)
    assert all(torch.allclose(joint[d], C(z[d][0]), atol=1e-6) for d in DOMAINS)


# ------------------------------------------------------------------------------- phases


def test_phases():
    assert phases_of(99, True, 100) == ("representation",)
    assert phases_of(100, True, 100) == ("translation",)
    assert phases_of(5, False, 100) == ("representation", "translation")


def test_frozen_weights_do_not_move_any_more():
    G = generator()
    optimizer = ExtraAdam(parameter_groups(G, 0.1), alternating=True)
    before = {k: v.detach().clone() for k, v in G.named_parameters()}
    for half in range(4):
        G(torch.rand(1, 3, 16, 16)).square().sum().backward()
        if half == 3:  # between extrapolation and step
            assert optimizer.extrapolated
            old = {k: optimizer.state[p]["saved"].clone() for k, p in G.named_parameters()}
            freeze(G.representation(), optimizer)
            freeze(G.representation(), optimizer)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
    own = {n for n, _ in G.named_parameters() if not n.startswith(("decoders.a", "decoders.t"))}
    for _ in range(2):
        for name, p in G.named_parameters():
            if name in own:
                assert torch.equal(p, old[name]) and not p.requires_grad
        optimizer.step()
    first = "encoder.model.0.conv.weight"
    assert not torch.equal(before[first], old[first])
    unfreeze(G.representation())
    assert all(p.requires_grad for p in G.parameters())


def test_a_lower_learning_rate_for_the_representation():
    G = generator()
    groups = parameter_groups(G, 1.0)
    assert [g["name"] for g in groups] == ["representation", "translation"]
    assert sum(len(g["params"]) for g in groups) == len(list(G.parameters()))
    optimizer = torch.optim.Adam(groups)
    set_lr(optimizer, 0.5, {"representation": 0.1})
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.5]
    with pytest.raises(ValueError, match="no group of parameters is named 'encoder'"):
        set_lr(optimizer, 0.5, {"encoder": 0.1})


def test_distillation():
    G = generator()
    teacher, shared = Distillation(G), Shared(G, batches())
    start = teacher(shared)
    with torch.no_grad():
        for p in G.encoder.parameters():
            p.add_(0.1)
    far = teacher(Shared(G, batches()))
    assert float(far) > float(start) + 1e-3
    far.backward()
    assert grads(G.encoder) and not grads(teacher) and not teacher.train().training
    other = Distillation(generator(seed=5))
    other.load_state_dict(teacher.state_dict())
    assert torch.equal(other(Shared(G, batches())), far)
    teacher.remember(G)
    assert torch.equal(teacher(Shared(G, batches())), Distillation(G)(Shared(G, batches())))


def test_elastic_weight_consolidation():
    G = generator()
    x = batches(("rf",))["rf"]["data"]["x"]
    ewc = EWC(G)
    assert float(ewc(G)) == 0
    ewc.estimate(G, [lambda: G.decode_tasks(G.encode(x))["d"].square().sum()])
    assert not grads(G)
    with torch.no_grad():
        G.encoder.model[0].conv.weight.add_(0.1)
    fisher, w = ewc.get_buffer("fisher_0"), G.encoder.model[0].conv.weight
    lost = ewc(G)
    assert fisher.shape == w.shape and fisher.any()
    assert abs(float(lost - fisher.sum() * 0.01 / 2)) < 1e-4 * float(lost) + 1e-6
    with torch.no_grad():
        G.decoders["w"].model[0].model[0].model[0].conv.weight.add_(1.0)  # d does not need it
    assert torch.allclose(ewc(G), lost)
    other = EWC(generator(seed=4))
    other.load_state_dict(ewc.state_dict())
    assert torch.equal(other(G), ewc(G))
    with pytest.raises(ValueError, match="one loss at least"):
        ewc.estimate(G, [])


def test_ewc_of_two_ranks_is_that_of_one(monkeypatch):
    G = generator(h=None, w=None, tasks="ds", a=None, t=None)
    x = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))

    def loss(rows):
        return lambda: G.decode_tasks(G.encode(x[rows]))["d"].square().mean()

    alone, shared = EWC(G), EWC(G)
    alone.estimate(G, [loss(slice(0, 4))])
    weights = [p for m in G.representation() for p in m.parameters()]
    other = iter(torch.autograd.grad(loss(slice(2, 4))(), weights, allow_unused=True))

    def mean(grad):  # with that of the other rank, which has the other half of the pictures
        theirs = next(other)
        return grad / 2 if theirs is None else (grad + theirs) / 2

    monkeypatch.setattr(phases.distributed, "world_size", lambda: 2)
    monkeypatch.setattr(phases.distributed, "mean", mean)
    shared.estimate(G, [loss(slice(0, 2))])
    for (name, one), two in zip(alone.named_buffers(), shared.buffers(), strict=True):
        assert torch.allclose(one, two, rtol=1e-3, atol=1e-9), name
    assert any(b.any() for n, b in alone.named_buffers() if n.startswith("fisher"))


def test_what_is_looked_at_between_the_halves_is_of_whole_updates():
    p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
    optimizer = ExtraAdam([p], 0.1, alternating=True)
    whole = p.detach().clone()
    for t in range(4):
        p.grad = p.detach() + 1
        optimizer.step()
        there = p.detach().clone()
        if t % 2:
            whole = there
        with settled(optimizer, torch.optim.Adam([torch.nn.Parameter(torch.ones(1))])):
            assert torch.equal(p.detach(), whole) and torch.equal(whole, there) == bool(t % 2)
        assert torch.equal(p.detach(), there)


def test_weights_of_the_first_wgan_stay_within_a_bound():
    D = discriminators()
    clip_weights([D], 0.01)
    assert max(float(p.detach().abs().max()) for p in D.parameters()) <= 0.01


def test_extra_adam_resumes_between_its_halves():
    def run(resume: bool) -> torch.Tensor:
        p = torch.nn.Parameter(torch.tensor([1.0, -2.0]))
        optimizer = ExtraAdam([p], 0.1, alternating=True)
        for t in range(5):
            p.grad = 2 * p.detach() + 1
            optimizer.step()
            if resume and t == 2:
                state = optimizer.state_dict()
                p = torch.nn.Parameter(p.detach().clone())
                optimizer = ExtraAdam([p], 0.1, alternating=True)
                optimizer.load_state_dict(state)
        return p.detach()

    assert torch.equal(run(False), run(True))
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = ExtraAdam([p])
    p.grad = torch.ones(1)
    with pytest.raises(RuntimeError, match="needs an extrapolation"):
        optimizer.step()
    optimizer.extrapolation()
    moved = p.detach().clone()
    p.grad = None  # nothing for the second half: back to where it was
    optimizer.step()
    assert float(p) == 1 and float(moved) < 1 and not optimizer.extrapolated
    with pytest.raises(ValueError, match="betas"):
        ExtraAdam([p], betas=(1.0, 0.9))
