"""What somebody probably meant: the one word of several that is close to what was typed, if any is.

Close is a matter of letters (`distance`), of a beginning (`--out` of `--outdir`), or, for names of
options, of meaning (`SYNONYMS`). A suggestion that is not close misleads, so often there is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

# What people call an option, by habit of other programs -> what it may be called here, the first
# one that a script has. Without dashes in front, `_` for `-`.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "learning_rate": ("lr",),
    "batch_size": ("bs", "batch"),
    "batchsize": ("bs", "batch"),
    "train_batch_size": ("bs",),
    "per_device_batch_size": ("bs_gpu",),
    "micro_batch": ("bs_gpu",),
    "out": ("outdir",),
    "output": ("outdir",),
    "output_dir": ("outdir",),
    "out_dir": ("outdir",),
    "save_dir": ("outdir",),
    "log_dir": ("outdir",),
    "logdir": ("outdir",),
    "results_dir": ("results_path",),
    "workers": ("num_workers",),
    "n_workers": ("num_workers",),
    "threads": ("num_workers",),
    "gpu": ("gpus",),
    "device": ("gpus",),
    "devices": ("gpus",),
    "cuda": ("gpus",),
    "dataset": ("data",),
    "datasets": ("data",),
    "dataset_path": ("data",),
    "data_dir": ("data",),
    "root": ("data",),
    "input": ("data", "net"),
    "images": ("data",),
    "model": ("net", "backbone"),
    "checkpoint": ("net", "resume"),
    "ckpt": ("net", "resume"),
    "network": ("net",),
    "weights": ("net",),
    "snapshot": ("net",),
    "arch": ("backbone",),
    "pretrained": ("init_from",),
    "finetune": ("init_from",),
    "resolution": ("res", "crop_size"),
    "image_size": ("res", "crop_size"),
    "img_size": ("res", "crop_size"),
    "size": ("res", "crop_size"),
    "n_samples": ("samples", "ns"),
    "num_samples": ("samples", "ns"),
    "n_images": ("num_images",),
    "max_images": ("num_images",),
    "limit": ("num_images",),
    "num_epochs": ("epochs", "outer_loops"),
    "epochs": ("outer_loops", "duration", "total_iter"),
    "iters": ("num_iteration", "total_iter", "duration"),
    "iterations": ("num_iteration", "total_iter", "duration"),
    "steps": ("num_iteration", "total_iter", "duration"),
    "num_steps": ("num_iteration", "total_iter", "steps"),
    "max_steps": ("num_iteration", "total_iter", "duration"),
    "total_steps": ("num_iteration", "total_iter", "duration"),
    "wd": ("weight_decay",),
    "warmup_steps": ("warmup",),
    "warmup_epochs": ("n_ramp",),
    "optimizer": ("opt",),
    "optim": ("opt",),
    "amp": ("precision",),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "dtype": ("precision",),
    "random_seed": ("seed", "seeds"),
    "config": ("preset",),
    "continue": ("resume",),
    "name": ("suffix",),
    "run_name": ("suffix",),
    "tag": ("suffix",),
    "save_freq": ("save_every",),
    "save_interval": ("save_every",),
    "log_freq": ("log_every",),
    "log_interval": ("log_every",),
    "temperature": ("temp",),
    "teacher": ("guide",),
    "cfg": ("guidance",),
    "guidance_scale": ("guidance",),
    "force": ("overwrite",),
    "classes": ("class",),
}


def distance(a: str, b: str) -> int:
    """Letters to put in, leave out, replace, or swap with their neighbour, to make `b` of `a`."""
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        before, last, row = row, before, [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, last[j - 2] + 1)
            row.append(cost)
    return row[-1]


def closest(typed: str, words: Iterable[str]) -> str | None:
    """The word that `typed` is a slip of the keyboard for, or the beginning of; None if none is.

    Upper and lower case are alike, and so are `-` and `_`. Words of up to 4 letters may differ by
    one, of up to 8 by two, longer ones by three.
    """
    said = _plain(typed)
    ranked = sorted((distance(said, _plain(word)), k, word) for k, word in enumerate(words))
    if ranked and ranked[0][0] <= _slips(min(len(said), len(_plain(ranked[0][2])))):
        return ranked[0][2]
    begun = [word for _, _, word in ranked if len(said) >= 3 and _plain(word).startswith(said)]
    return begun[0] if len(begun) == 1 else None


def closest_option(typed: str, options: Mapping[str, str]) -> str | None:
    """The option that `typed`, `--learning_rate` say, is meant for; None if none is close.

    options: every spelling that the script takes, hidden ones included -> the one to show.
    """
    shown = {_plain(option): option for option in options.values()}
    for name in SYNONYMS.get(_plain(typed), ()):
        if name in shown:
            return shown[name]
    found = closest(typed, list(options))
    return None if found is None else options[found]


def hint(found: str | None) -> str:
    """`; did you mean X?`, or nothing."""
    return f"; did you mean {found}?" if found else ""


def listed(words: Sequence[str], typed: str) -> str:
    """`a, b, c`, and which of them was probably meant by what was typed."""
    return ", ".join(words) + hint(closest(typed, words))


def _plain(word: str) -> str:
    return word.lstrip("-").replace("-", "_").lower()


def _slips(length: int) -> int:
    return 0 if length < 2 else 1 if length <= 4 else 2 if length <= 8 else 3
