"""What runs there are, how they do and in what they differ: read from their folders.

    python runs.py ls --since 2d --state finished
    python runs.py show camnet-scenes
    python runs.py compare edm2-scenes-c8-baseline edm2-scenes-c8-jest
    python runs.py best --by val/best_psnr --data scenes
    python runs.py rm 439a2c2c 1f00ab12

A run is named by its folder's name, the beginning of it, the hash at its end, or a path. Looking
writes nothing, whatever runs meanwhile. `--json` gives the same to programs. docs/runs.md explains
states, figures and keys; recipes/runs/reading.py how a folder is read.
"""

import errno
import json
import sys
from argparse import Namespace
from collections.abc import Sequence

import storage.environment  # noqa: F401  (says what to do where torch is missing)

from recipes.runs import about, facts
from recipes.runs.figures import is_result, main_figures, newest, short
from recipes.runs.layout import ago, counted, figure, printable, size, table, terminal_width, value
from recipes.runs.options import get_args
from recipes.runs.reading import RunFolder, Scan, find_run, inner_folders, read_run, scan
from recipes.runs.removal import remove_run, why_not
from runtime.progress import track
from storage.console import refused
from storage.errors import DiskError, RunError, UsageError


def main(args: Namespace) -> int:
    """One command; returns the exit code. Errors: UsageError, DiskError."""
    if args.command == "ls":
        return ls(args)
    if args.command == "best":
        return best(args)
    if args.command == "rm":
        return rm(args)
    words = [args.runs] if args.command == "show" else args.runs
    runs = [read_run(find_run(word, args.roots)) for word in words]
    return show(args, runs[0]) if args.command == "show" else compare(args, runs)


def ls(args: Namespace) -> int:
    """All runs, a line each."""
    found = scan(args.roots)
    runs = chosen(args, found)
    if args.limit:
        runs = runs[: args.limit]
    if args.json:
        return as_json(
            {"results": [str(root) for root in args.roots], **facts.listing(found, runs)}
        )
    rows = [["name", "method", "task", "data", "state", "step", "figures", "when"]]
    rows += [row_of(run) for run in runs]
    if runs:
        say(table(rows, width=terminal_width(), shrink=(0, 2, 3, 6), right=(5,)))
    else:
        of = "such runs" if found.runs else "runs"
        say([f"no {of} in {', '.join(map(str, args.roots))}"])
    say([f"cannot be read: {bad.path}: {bad.why}" for bad in found.unreadable])
    if args.all:
        say([f"no run: {path}" for path in inner_folders(found.others)])
    elif found.others:
        count = len(inner_folders(found.others))
        other = counted(count, "other folder is no run", "other folders are no runs")
        say([f"{other} (pictures drawn, say): --all names them"])
    return 0


def row_of(run: RunFolder) -> list[str]:
    """A run's line in the list."""
    last = newest(run.last_rows)
    told = [f"{short(name)} {figure(last[name]._asdict())}" for name in main_figures(last)]
    step = "-" if run.step is None else str(run.step)
    return [
        run.name, about.method(run), about.task(run), about.data(run), run.state, step,
        ", ".join(told) or "-", ago(run.updated),
    ]  # fmt: skip


def chosen(args: Namespace, found: Scan) -> list[RunFolder]:
    """The runs that the command asks for, sorted as it asks."""

    def wanted(run: RunFolder) -> bool:
        names = (run.script.lower(), about.method(run).lower())
        return (
            (args.script is None or args.script.removesuffix(".py").lower() in names)
            and (args.state is None or run.state == args.state)
            and (args.data is None or args.data.lower() in about.data(run).lower())
            and (args.since is None or (run.updated or 0) >= args.since)
        )

    runs = sorted(filter(wanted, found.runs), key=lambda run: run.name)
    by = vars(args).get("sort", "updated")
    return runs if by == "name" else sorted(runs, key=lambda run: -(getattr(run, by) or 0))


def show(args: Namespace, run: RunFolder) -> int:
    """All of one run."""
    told = facts.whole(run)
    if args.json:
        return as_json(told)
    state = run.state + (f" ({told['message']})" if told["message"] else "")
    state += f", held by {run.holder}" if run.holder else ""
    images = "" if run.nimg is None else f", {run.nimg} images seen"
    origin, commands = told["origin"], told["commands"]
    commit = (origin["commit"] or "unknown")[:10] + " and changes" * bool(origin["uncommitted"])
    head = [
        ("run", run.name), ("folder", run.path),
        ("method", f"{told['method']} ({run.script}.py): {told['task']}"), ("data", told["data"]),
        ("state", state), ("step", f"{value(run.step)}{images}"),
        ("begun", f"{told['started'] or '-'}, {counted(told['launches'], 'launch', 'launches')}"),
        ("last wrote", f"{told['updated'] or '-'} ({ago(run.updated)})"),
        ("code", f"commit {commit}, Python {origin['python'] or '-'}, on {origin['host'] or '-'}"),
        ("typed", commands["typed"] or "-"),
    ]  # fmt: skip
    say(table(head))
    preset = f", among them those of --preset {told['preset']}" if told["preset"] else ""
    say(["", f"options that are not at their defaults{preset}"])
    say([f"  {facts.spelled([run], name)} {value(v)}" for name, v in told["changed"].items()])
    say(["", "figures"])
    rows = [["  ", "newest", "step", "best", "step"]]
    for name, entry in told["figures"].items():
        both = (entry["newest"], entry["best"])
        rows.append([f"  {name}", *(w for p in both for w in (figure(p), value(p and p["step"])))])
    say(table(rows, width=terminal_width(), shrink=(0,), right=(1, 2, 3, 4)))
    say(["", f"files, {size(told['bytes'])}"])
    sizes = [
        [f"  {e['path']}", size(e["bytes"]),
         counted(e["files"], "file", "files") if e["path"][-1] == "/" else ""]
        for e in told["files"]
    ]  # fmt: skip
    say(table(sizes or [["  none"]], right=(1,) if sizes else ()))
    go_on = "to go on"
    if run.state == "finished" and (longer := facts.length_options(run)):
        go_on = f"to train it for longer: this, with a larger {' or '.join(longer)}"
    for title, key in ((go_on, "go_on"), ("to use its newest snapshot", "use")):
        if commands[key]:
            say(["", title, f"  {commands[key]}"])
    return 0


def compare(args: Namespace, runs: Sequence[RunFolder]) -> int:
    """Which options differ, and the figures side by side."""
    told = facts.differences(runs)
    if args.json:
        return as_json(told)
    letters = [chr(ord("A") + k) if k < 26 else str(k) for k in range(len(runs))]
    head = [
        [f"{letter}:", run.name, about.method(run), run.state, f"step {value(run.step)}",
         f"data {about.data(run)}"]
        for letter, run in zip(letters, runs, strict=True)
    ]  # fmt: skip
    width, shrink = terminal_width(), range(len(runs) + 1)
    say(table(head, width=width, shrink=(1, 5)))
    for title, key in (("options that differ", "options"), ("how it ran", "execution")):
        both, some = facts.of_all(told[key], runs)
        rows = [[f"  {facts.spelled(runs, name)}", *map(value, both[name])] for name in both]
        if some:
            title += f" ({len(some)} more are options of only some of these scripts)"
        if rows:
            say(["", title, *table([["", *letters], *rows], width=width, shrink=shrink)])
        elif key == "options":
            say(["", "no option differs that decides what is computed"])
    for title, key in (("newest figures", "newest"), ("best figures", "best")):
        rows = [
            [f"  {name}", *map(figure, entry[key])]
            for name, entry in told["figures"].items()
            if (key == "newest" or entry["better"]) and is_result(name)
        ]
        if rows:
            right = range(1, len(runs) + 1)
            say(["", title, *table([["", *letters], *rows], width=width, shrink=(0,), right=right)])
    return 0


def best(args: Namespace) -> int:
    """Runs in order of their best value of a figure."""
    asked = "max" if args.max else "min" if args.min else None
    found = scan(args.roots)
    told = facts.ranking(chosen(args, found), args.by, asked)
    if args.limit:
        told["runs"] = told["runs"][: args.limit]
    if args.json:
        return as_json(told)
    word = {"max": "more is better", "min": "less is better"}[told["better"]]
    say(
        [f"{told['by']}: {word}" + ", as its name tells (--max and --min decide)" * told["guessed"]]
    )
    rows = [["", "name", "data", "best", "at step", "newest", "at step", "state"]]
    for entry in told["runs"]:
        run, last = entry["run"], entry["newest"]
        rows.append([entry["rank"], run["name"], run["data"], figure(entry), entry["step"],
                     figure(last), last["step"], run["state"]])  # fmt: skip
    say(table(rows, width=terminal_width(), shrink=(1, 2), right=(0, 3, 4, 5, 6)))
    return 0


def rm(args: Namespace) -> int:
    """Remove runs: all that are named, or none."""
    paths = list(dict.fromkeys(find_run(word, args.roots) for word in args.runs))
    refusals = [why for path in paths if (why := why_not(path, args.roots))]
    if refusals:
        raise UsageError("nothing is removed: " + "; ".join(refusals))
    sizes = {path: facts.size_of(path) for path in paths}
    if not args.json:
        say(table([[f"  {path}", size(count)] for path, count in sizes.items()], right=(1,)))
    if not args.yes:
        if args.json or not sys.stdin.isatty():
            raise UsageError("nothing is removed: there is nobody to ask; --yes removes without")
        noun = "this run" if len(paths) == 1 else f"these {len(paths)} runs"
        answer = input(f"remove {noun}, {size(sum(sizes.values()))}, for good? yes or no: ")
        if answer.strip().lower() not in ("yes", "y"):
            say(["nothing is removed"])
            return 0
    for path in track(paths, len(paths), "removing", "run"):
        remove_run(path)
        if not args.json:
            say([f"removed {path}"])
    told = [{"path": str(path), "bytes": count} for path, count in sizes.items()]
    return as_json({"removed": told}) if args.json else 0


def say(lines: Sequence[str]) -> None:
    """Print lines of a table."""
    for line in lines:
        print(printable(line))


def as_json(told: facts.Facts) -> int:
    """Print a JSON value."""
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    try:
        code = main(get_args(__doc__))
        lost = refused(sys.stdout)  # what is printed is what was asked for
        if lost is not None and lost.errno != errno.EPIPE:  # as of `runs.py ls | head`
            raise DiskError(f"what was to be printed could not be written: {lost.strerror}")
        sys.exit(code)
    except RunError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, EOFError):
        print("nothing is removed", file=sys.stderr)
        sys.exit(130)
