"""train_ddpm.py: modes run and resume bit-exactly, ranks change nothing, one's own classes train to
the weights of the page, files of LayoutDiffuse's code are options."""

import json
from pathlib import Path

import pytest
import torch

from diffusion.ddpm_rows import keyed_noise
from models.ddpm import UNet
from models.ddpm.pretrained import adapters, base_names
from recipes.ddpm import founding, options
from recipes.ddpm.step import Objective
from storage.snapshot import load_snapshot
from tests import kill_harness as harness
from tests.scripts.support import ROOT, load, metrics

pytestmark = pytest.mark.usefixtures("one_thread")

SHORT = (
    "--preset smoke --bs 8 --duration 48 --snapshot_every 100 --sample_images 0 --save_every 3 "
    "--log_every 1 --sampler ddim"
)
MODES = {
    "class": "",
    "layout": "--layout boxes --layout_dropout 0.5 --max_objects 3 --no-cond --xflip",
    "pixels": "--layout segmentation --no-cond",
    "improved": "--variance learned_range --loss rescaled_mse --schedule_sampler "
    "loss-second-moment --timesteps 3 --best_of_k 2",
    "jest": "--acid --bs 40 --duration 24",
}
OWN = """
from diffusion import DDIMTraining, DDPMTraining


class DDPM_MNIST(DDPMTraining):
    def process_batch(self, y_0, mode='train'):
        return super().process_batch(y_0[0], mode)


class DDIM_MNIST(DDIMTraining):
    def process_batch(self, y_0, mode='train'):
        return super().process_batch(y_0[0], mode)


def look(step, outputs, run_dir):
    shapes = {k: sorted(v) if isinstance(v, dict) else tuple(v.shape) for k, v in outputs.items()}
    (run_dir / 'looked.txt').write_text(f'{step} {shapes}')
"""


def get_args(*words):
    return options.get_args(None, words)


def train(run_dir, *words):
    """One launch; module-level, for the fork harness."""
    load("train_ddpm").main(get_args(*SHORT.split(), "--run-dir", str(run_dir), *words))


def killed(run_dir, step, *words):
    """Ends without warning in a step."""
    harness.kill_in_step(step)
    train(run_dir, *words)


def slow_but(kept, names):
    """Parameters of a test, of which all but those kept are left to `make test-slow`."""
    return [n if n in kept else pytest.param(n, marks=pytest.mark.slow) for n in names]


def weights(run_dir):
    (file,) = (Path(run_dir) / "snapshots").glob("*.safetensors")
    return load_snapshot(file).state_dict


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("mode", slow_but(["layout", "jest"], MODES))
def test_every_mode_resumes_bit_exactly(mode, tmp_path):
    words = MODES[mode].split()
    longest = words[words.index("--duration") + 1] if "--duration" in words else "48"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, *words)
    train(broken, *words, "--duration", str(int(longest) // 2))
    for file in (broken / "snapshots").iterdir():
        file.unlink()
    train(broken, *words)
    assert harness.differences(harness.final_state(whole), harness.final_state(broken)) == []
    assert harness.metrics(whole) == harness.metrics(broken)
    assert same(weights(whole), weights(broken))


@pytest.mark.slow
def test_a_kill_in_the_middle_of_a_step_changes_nothing(tmp_path):
    """Gradients are there and the update is not; what was saved a step before is gone on from."""
    words, log = [*MODES["improved"].split(), "--duration", "40"], tmp_path / "log"
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train(whole, *words)
    assert harness.finish(killed, [broken, 4, *words], log) == -9, log.read_text()
    assert harness.committed(broken) == 3 and harness.in_a_save(broken) == "other"
    train(broken, *words)
    assert harness.differences(harness.final_state(whole), harness.final_state(broken)) == []
    assert harness.metrics(whole) == harness.metrics(broken)
    assert same(weights(whole), weights(broken))


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["improved", "layout"])
def test_two_ranks_that_are_killed_in_a_step_end_bit_by_bit_as_two_that_are_not(mode, tmp_path):
    """kill -9 of both in the same step; the same command again. That two are one: below."""
    words, log = [*MODES[mode].split(), "--duration", "40"], tmp_path / "log"
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def launched(target, *arguments):
        return [harness.wait(p) for p in harness.launch_ranks(target, arguments, log, 2)]

    assert launched(train, whole, *words) == [0, 0], log.read_text()
    assert launched(killed, broken, 4, *words) == [-9, -9], log.read_text()
    assert harness.committed(broken) == 3 and not (broken / "snapshots").exists()
    assert launched(train, broken, *words) == [0, 0], log.read_text()
    assert harness.differences(harness.final_state(whole), harness.final_state(broken)) == []
    assert harness.metrics(whole) == harness.metrics(broken)
    assert harness.final_state(broken)["step"] == 5 and same(weights(whole), weights(broken))


@pytest.mark.parametrize("mode", slow_but(["class"], ["class", "layout", "improved"]))
def test_two_ranks_are_one(mode, tmp_path):
    words = [*MODES[mode].split(), "--duration", "24"]
    train(tmp_path / "one", *words)
    log = tmp_path / "log"
    for process in harness.launch_ranks(train, [tmp_path / "two", *words], log, 2):
        assert harness.wait(process) == 0, log.read_text()
    one, two = (harness.final_state(tmp_path / name) for name in ("one", "two"))
    for name, value in one["net"].items():
        # Adam divides by the gradient: its roundings show, but a step moves weights by 2e-4.
        torch.testing.assert_close(two["net"][name], value, rtol=0, atol=1e-5)
    loss = metrics(tmp_path / "one", "Loss")
    assert metrics(tmp_path / "two", "Loss") == pytest.approx(loss, rel=1e-5)
    if mode == "improved":  # the losses that steps are drawn by, in the order of the whole batch
        a, b = one["schedule_sampler"], two["schedule_sampler"]
        assert torch.equal(a["counts"], b["counts"]) and int(a["counts"].sum()) > 0
        torch.testing.assert_close(a["losses"], b["losses"], rtol=1e-5, atol=1e-6)


def test_parts_change_nothing_but_roundings(tmp_path):
    for name, words in (("whole", []), ("parts", ["--bs_gpu", "3"])):
        train(tmp_path / name, "--duration", "16", *words)
    a, b = (weights(tmp_path / name) for name in ("whole", "parts"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DDPM_MNIST", "--loss ldm --elbo_weight 1"),
        pytest.param(
            "DDIM_MNIST", "--variance learned_range --loss rescaled_mse --timesteps 3 "
            "--schedule_sampler loss-second-moment", marks=pytest.mark.slow,
        ),
    ],
)  # fmt: skip
def test_a_class_of_ones_own_trains_to_the_weights_of_the_page(name, words, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    plain = [*words.split(), "--class_dropout", "0", "--dropout", "0"]
    looked = ["--sample_images", "2", "--sample_steps", "2", "--look", f"{file}:look"]
    train(tmp_path / "page", *plain, "--no-cond")
    train(tmp_path / "own", *plain, "--model", f"{file}:{name}", *looked)
    page, own = (weights(tmp_path / kind) for kind in ("page", "own"))
    assert len(page) > 20 and same(page, own)
    said = (tmp_path / "own" / "looked.txt").read_text()
    assert said.startswith("6 ") and "'y_0_hat': (8, 3, 8, 8)" in said
    assert "'restore': ['model_history_output', 'model_output']" in said


def test_best_of_one_is_plain_and_the_best_of_several_loses_least(tmp_path, monkeypatch):
    train(tmp_path / "plain", "--duration", "16")
    train(tmp_path / "four", "--duration", "8", "--best_of_k", "4")
    train(tmp_path / "far", "--duration", "8", "--best_of_k", "4", "--best_of_reject", "100")
    plain, four, far = (metrics(tmp_path / n, "loss/mse")[1] for n in ("plain", "four", "far"))
    assert four < plain < far  # nearer than 100 are all of them: the farthest is left
    # The page asks for no candidates at 1. That choosing of 1 changes nothing either, neither
    # noise nor generators: let it be asked, step by step.
    row_losses, asked = Objective.row_losses, []

    def chosen(self, net, rows, noise_keys=None):
        asked.append(noise_keys)
        keys = self.best_noise(net, rows, 1, 0.0) if noise_keys is None else noise_keys
        return row_losses(self, net, rows, keys)

    monkeypatch.setattr(Objective, "row_losses", chosen)
    train(tmp_path / "one", "--duration", "16", "--best_of_k", "1")
    assert asked == [None, None]  # a loss a step, and none to choose by
    assert same(weights(tmp_path / "plain"), weights(tmp_path / "one"))
    assert metrics(tmp_path / "plain", "Loss") == metrics(tmp_path / "one", "Loss")


def test_pictures_histories_and_boxes(tmp_path):
    train(
        tmp_path, *MODES["layout"].split(), "--duration", "8", "--sample_images", "2",
        "--sample_steps", "3", "--frames", "3", "--guidance", "2", "--snapshot_every", "1",
    )  # fmt: skip
    found = {p.name.split("-")[0] for p in (tmp_path / "samples").iterdir()}
    assert found == {"restore", "sampling", "samples", "layouts"}


def tuned(folder, base, fine):
    """--init_from a run of `base` and --freeze base: what was there stays bit by bit, and all that
    is added is trained. {name: Adam's mean of its gradients} of that, and the words."""
    train(folder / "base", *base)
    (file,) = (folder / "base" / "snapshots").iterdir()
    words = [*fine, "--init_from", str(file), "--ema", "0", "--lr", "0.01", "--warmup", "0"]
    train(folder / "fine", *words, "--freeze", "base")
    start = load_snapshot(file).state_dict
    made = load_snapshot(next((folder / "fine" / "snapshots").iterdir()))
    net = UNet(**made.config["net"])
    added, names = adapters(net), base_names(net)
    assert added and {names[k] for k in start} == set(made.state_dict) - set(added)
    assert all(torch.equal(made.state_dict[names[k]], v) for k, v in start.items())
    record = json.loads((folder / "fine" / "init_from.json").read_text())
    assert record["taken"] == len(start) and set(record["missing"]) == set(added)
    state = harness.final_state(folder / "fine")["optimizer"]["state"]
    assert len(state) == len(added)
    means = {name: state[i]["exp_avg"] for i, name in enumerate(added)}
    assert all(mean.abs().sum() > 0 for mean in means.values())
    return means, words


def test_layouts_are_learned_upon_a_network_without(tmp_path):
    base, fine = "--duration 8 --no-cond", f"{MODES['layout']} --duration 32"
    means, _ = tuned(tmp_path, base.split(), fine.split())
    (table,) = (mean for name, mean in means.items() if "class_embedder" in name)
    assert table[:-1].abs().sum() > 0  # of objects, not of the background alone


def test_task_prompts_begin_without_effect_and_are_trained(tmp_path):
    words = "--no-cond --attn_block SpatialTransformer --duration"
    fine = f"{words} 32 --task_prompts 3".split()
    # three steps, so that the transformers' own last layers are not 0 any more
    means, typed = tuned(tmp_path, f"{words} 24 --warmup 0 --lr 0.01".split(), fine)
    prompts = [mean for name, mean in means.items() if name.endswith(".prompt")]
    assert len(prompts) == 4 and all(p.shape == (1, 3, 128) for p in prompts)
    typed = [word for word in typed if word not in ("--task_prompts", "3")]
    train(tmp_path / "without", *typed)
    with_, without = (metrics(tmp_path / name, "Loss") for name in ("fine", "without"))
    assert with_[1] == without[1] and with_[4] != without[4]


# ------------------------------------------------------------------------------- files of options

TINY = {
    "denoising_model.model_args": {
        "model_channels": 8, "channel_mult": [1, 2], "num_res_blocks": 1,
        "attention_resolutions": [2], "num_heads": 1, "num_head_channels": -1,
    },
    "diffusion.model_args.beta_schedule_args": {"n_timestep": 4},
    "diffusion.model_args": {"fast_sampling_steps": 2},
    "trainer_args": {"max_epochs": 1, "accelerator": "cpu"},
    "data": {"dataset": "scenes", "image_size": 8, "batch_size": 4, "val_batch_size": 2},
}  # fmt: skip


@pytest.mark.parametrize("file", sorted((ROOT / "configs").glob("*.json")), ids=lambda f: f.stem)
def test_a_shipped_configuration_runs(file, tmp_path):
    """As it is, but for sizes and the data, which is not here."""
    config = json.loads(file.read_text())
    assert options.get_args(None, ["--config", str(file), "--gpus", "cpu"]).epochs >= 20
    for section, values in TINY.items():
        part = config
        for step in section.split("."):
            part = part.setdefault(step, {})
        part |= values
    arguments = config["denoising_model"]["model_args"]
    if "instance_attn_res" in arguments:
        arguments["instance_attn_res"] = [2]
    small = tmp_path / "small.json"
    small.write_text(json.dumps(config))
    words = ["--config", str(small), "--duration", "8", "--snapshot_every", "2"]
    run = ["--run-dir", str(tmp_path / "run"), "--wandb", "disabled", "--num_workers", "0"]
    args = get_args(*words, *run, "--max_objects", "2") if "instance_attn_res" in arguments and (
        arguments["instance_prompt_attn_type"] != "segmentation"
    ) else get_args(*words, *run)  # fmt: skip
    args.outdir, args.epochs, args.snapshot_epochs = None, None, None
    load("train_ddpm").main(args)
    net = load_snapshot(next((tmp_path / "run" / "snapshots").iterdir())).config["net"]
    assert net["in_channels"] == arguments["in_channel"]
    assert net["out_channels"] == arguments["out_channel"] and net["model_channels"] == 8


@pytest.mark.parametrize(
    ("where", "key", "value", "says"),
    [
        ("", "colour", 1, "unknown key colour"),
        ("diffusion.model_args", "lr", 1, "unknown key diffusion.model_args.lr"),
        ("denoising_model.model_args", "wide", 1, "wide"),
        ("denoising_model.model_args", "out_channel", 3, "out_channel 3"),
        ("denoising_model", "model", "modules.other.Net", "FILE.py:CLASS"),
        ("diffusion", "model", "DDIM.DDIM.DDIMTraining", "learns the variance"),
        ("diffusion.model_args", "learn_logvar", True, "learn_logvar"),
        ("diffusion.model_args", "loss_fn", 3, "another kind"),
        ("trainer_args", "accelerator", "tpu", "accelerator 'tpu' is none of"),
        ("denoising_model", "model", "mine.py:Net", "attention_resolutions: mine.py:Net is made"),
        ("", "vqvae_model", {"model": "x"}, "vqvae_init_weights, its file, is missing"),
        ("diffusion.model_args", "vqvae_init_weights", "a.ckpt", "of a vqvae_model"),
        ("diffusion.model_args.beta_schedule_args", "schedule", "round", "round"),
    ],
)
def test_what_a_file_should_not_say_is_one_line(where, key, value, says, tmp_path, capsys):
    config = json.loads((ROOT / "configs" / "MNIST.json").read_text())
    part = config
    for step in filter(None, where.split(".")):
        part = part[step]
    part[key] = value
    file = tmp_path / "a.json"
    file.write_text(json.dumps(config))
    with pytest.raises(SystemExit, match="2"):
        get_args("--config", str(file))
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0]


def test_a_file_means_options_and_what_is_typed_wins():
    file = ROOT / "configs" / "MNIST.json"
    args = get_args("--config", str(file), "--lr", "1e-3")
    assert (args.lr, args.gray, args.channels, args.bs, args.res) == (1e-3, True, 32, 128, 28)
    assert (args.loss, args.elbo_weight, args.variance) == ("ldm", 0.0, "fixed_small")
    assert (args.schedule, args.data, args.outdir) == ("ldm-sqrt_linear", "mnist", "MNIST")
    config = json.loads(file.read_text()) | {"callbacks": ["callbacks.x"]}
    assert founding.translate(config)["epochs"] == 20


def changed(**sections):
    """configs/MNIST.json with more keys; sections by path, `__` for a dot."""
    config = json.loads((ROOT / "configs" / "MNIST.json").read_text())
    for section, values in sections.items():
        part = config
        for step in filter(None, section.split("__")):
            part = part.setdefault(step, {})
        part |= values
    return config


@pytest.mark.parametrize(
    ("section", "values", "key", "why"),
    [
        ("diffusion__model_args", {"guidance_scale": 5.0}, "guidance_scale", "no class and no"),
        ("trainer_args", {"gpu": 1}, "gpu", "--gpus says which"),
        ("denoising_model__model_args", {"image_size": 28}, "image_size", "the pictures say it"),
        ("denoising_model__model_args", {"num_classes": 10}, "num_classes", "the data says how"),
        ("denoising_model__model_args", {"num_prompt": 64}, "num_prompt", "no transformer"),
        ("denoising_model__model_args", {"num_head_channels": 8}, "num_heads", "counts"),
        ("denoising_model__model_args", {"use_fp16": True}, "use_fp16", "precision"),
        ("denoising_model__model_args", {"instance_attn_res": [2]}, "instance_attn_res", "no inst"),
        ("diffusion__model_args", {"use_fast_sampling": False}, "fast_sampler", "not on"),
        ("diffusion__model_args__beta_schedule_args", {"cosine_s": 0.1}, "cosine_s", "sqrt_linear"),
        ("sampling_args", {"num_samples": 4}, "data.val_batch_size", "num_samples counts"),
        ("trainer_args", {"check_val_every_n_epoch": 2}, "check_val", "every_n_epochs counts"),
        ("", {"callbacks": []}, "callbacks", "options"),
    ],
)  # fmt: skip
def test_a_key_without_effect_is_named_with_the_reason(section, values, key, why, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(changed(**{section: values})))
    before = founding.idle(ROOT / "configs" / "MNIST.json")
    said = [line for line in founding.idle(file) if line not in before]
    assert any(key in line.split(" (")[0] and why in line for line in said), said


def test_a_file_with_a_transformer_has_task_prompts():
    more = {"use_spatial_transformer": True, "num_prompt": 64, "prompt_dim": 128}
    found = founding.translate(changed(denoising_model__model_args=more))
    assert (found["task_prompts"], found["attn_block"]) == (64, "SpatialTransformer")
    with pytest.raises(ValueError, match="text_dim 1280 has no option"):
        founding.translate(changed(denoising_model__model_args=more | {"context_dim": 1280}))


def test_a_file_with_an_autoencoder_means_latents():
    config = json.loads((ROOT / "configs" / "MNIST.json").read_text())
    config["vqvae_model"] = {"model": "modules.VQModel", "model_args": {}}
    config["denoising_model"]["model_args"] |= {"in_channel": 4, "out_channel": 4}
    config["diffusion"]["model_args"] |= {"vqvae_init_weights": "kl-f8", "scale_factor": 0.18215}
    found = founding.translate(config)
    assert (found["latents"], found["latent_scale"], found["clip"]) == ("kl-f8", 0.18215, "none")
    assert found["gray"] is False


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--loss ldm --variance learned", "teaches no variance"),
        ("--zero_snr", "pure noise"),
        ("--freeze base", "--init_from"),
        ("--elbo_weight 1", "--elbo_weight 1 is of --loss ldm"),
        ("--layout_dropout 0.1", "of --layout"),
        ("--best_of_reject 0.1", "--best_of_k"),
        ("--eta 0.5 --sampler plms", "--sampler ddim"),
        ("--model a.py:B --acid", "--model says itself"),
        ("--model a", "FILE.py:NAME"),
        ("--model a.py:B --spacing leading", "--model has trailing steps"),
        ("--model a.py:B --eta 0.5", "--eta 0.5 is of"),
        ("--model a.py:B --class_dropout 0.1", "--class_dropout 0.1 is of --cond"),
        ("--model a.py:B --schedule_sampler loss-second-moment", "classes of DDIMTraining"),
        ("--model a.py:B --variance learned_range", "--loss mse: --model's classes of DDIM"),
        ("--model a.py:B --sampler heun", "no such sampler"),
        ("--model a.py:B --compile", "--compile"),
        ("--sampler heun --sample_steps 1", "1 steps of heun"),
        ("--ref a", "nothing here compares"),
        ("--task_prompts 4", "of --attn_block SpatialTransformer"),
        ("--views published", "--views published is of --layout"),
        ("--layout boxes --views published --xflip", "exclude each other"),
        ("--schedule_sampler loss-second-moment --selection --bs 10 --filt 0.5 --gpus 0 1",
         "cannot share evenly"),
    ],
)  # fmt: skip
def test_wrong_options_are_one_line(words, says, capsys):
    with pytest.raises(SystemExit, match="2"):
        get_args(*words.split())
    said = capsys.readouterr().err.strip().splitlines()
    assert len(said) == 1 and says in said[0]


def test_presets_are_the_papers():
    a, b = (get_args("--preset", name) for name in ("cifar10", "cifar10-iddpm"))
    assert (a.channels, a.num_blocks, a.lr, a.dropout, a.bs, a.ema, a.warmup) == (
        128, 2, 2e-4, 0.1, 128, 0.9999, 5000,
    )  # fmt: skip
    assert a.duration // a.bs == 800_000 and b.duration // b.bs == 500_000
    assert (b.timesteps, b.schedule, b.variance, b.loss) == (
        4000, "cosine", "learned_range", "rescaled_mse",
    )  # fmt: skip
    for name in options.PRESETS:
        get_args("--preset", name)


def test_noise_of_a_row_is_its_keys(tmp_path):
    keys = torch.arange(4)
    assert torch.equal(keyed_noise(keys, (2,))[1:3], keyed_noise(keys[1:3], (2,)))


def test_a_configuration_that_is_too_deep_is_one_line(tmp_path):
    (tmp_path / "c.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too deep in one another"):
        founding.read_config(tmp_path / "c.json")
