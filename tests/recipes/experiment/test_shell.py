"""No value becomes code of a batch script, whatever it is and wherever a template has it."""

import subprocess

import pytest

from recipes.experiment.folders import _head
from recipes.experiment.params import Code
from recipes.experiment.template import fill
from storage.errors import UsageError

NASTY = [
    "$(touch HACKED)", "`touch HACKED`", "; touch HACKED", "' ; touch HACKED ; '",
    '" ; touch HACKED ; "', "a\ntouch HACKED\n", "'\ntouch HACKED\n#", "& touch HACKED",
    "|| touch HACKED", "${x:=$(touch HACKED)}", "a[$(touch HACKED)]", "\\", "it's", "*", "~",
    "-n", "{a,b}", "x #y", "$HOME", "!!", "é ü", "$'\\x41'", "", " ",
]  # fmt: skip
# Places in a template, with what stands around the value.
ALONE = [
    "show {{v}}",
    "    show {{v}}  # {{v}}",
    "show a && show {{v}}",
    'show "$(show {{v}})"',
    "(show {{v}})",
    'X={{v}}; show "$X"',
    "# {{v}}\nshow {{v}}",
    "true # it's {{v}}\nshow {{v}}",
    "if [ {{v}} != zzz ]; then show {{v}}; fi",
    "show ${X%%$'\\n'*} {{v}}",
    "Y=$((1 + (2 * 3))); show {{v}}",
    "show <<< {{v}}",
    'show "a \\" b" {{v}}',
]
INSIDE = [
    "eval \\\n  show {{v}}",
    "bash -c \\\n  {{v}}",
    'show "{{v}}"',
    "show '{{v}}'",
    'show "\n{{v}}"',
    "show `show {{v}}`",
    'show "`show {{v}}`"',
    "show $'{{v}}'",
    "echo ${X:-{{v}}}",
    'echo "${X:-$(show {{v}})}"',
    "(( {{v}} ))",
    "X=$(( {{v}} ))",
    "cat << END\n{{v}}\nEND",
    "cat <<'END'\n{{v}}\nEND",
    "eval show {{v}}",
    "bash -c {{v}}",
    "/bin/sh -ec {{v}}",
    "[[ {{v}} -eq 1 ]]",
    "trap {{v}} EXIT",
    "show \\{{v}}",
    "show ${{v}}",
]


def run(text, folder):
    """What a script shows, after it is seen that nothing else happened."""
    front = 'show() { printf "%s|" "$@"; }\n'
    done = subprocess.run(
        ["bash", "-c", front + text], cwd=folder, capture_output=True, text=True, timeout=20
    )
    assert not (folder / "HACKED").exists(), text
    return done


@pytest.mark.parametrize("place", ALONE)
def test_a_value_that_stands_alone_arrives_as_it_is(place, tmp_path):
    for value in NASTY:
        text = fill(place, {"v": value, "main_partition": Code("")}, "t.sh").text
        done = run(text, tmp_path)
        assert done.returncode == 0 and not done.stderr, (value, text, done.stderr)
        if "<<<" not in place and '"$(' not in place and "\n" not in place:
            assert f"{value}|" in done.stdout, (value, text)


@pytest.mark.parametrize("place", INSIDE)
def test_where_quotes_would_not_hold_a_value_has_to_be_a_plain_one(place, tmp_path):
    params = {"main_partition": Code("")}
    for value in NASTY:
        if value == "-n":  # plain
            continue
        with pytest.raises(UsageError, match=r"t\.sh:\d: \{\{v\}\} stands inside of quotes"):
            fill(place, params | {"v": value}, "t.sh")
    run(fill(place, params | {"v": "a-1.b"}, "t.sh").text, tmp_path)


def test_lines_of_sbatch_take_plain_values_only():
    params = {"main_partition": Code("")}
    assert fill("#SBATCH -J {{v}}", params | {"v": "a-b_1"}, "t.sh").text == "#SBATCH -J a-b_1\n"
    for value in NASTY:
        if value != "-n":
            with pytest.raises(UsageError, match=r"t\.sh:1: v .* cannot stand in a line of"):
                fill("#SBATCH -J {{v}}", params | {"v": value}, "t.sh")
    with pytest.raises(UsageError, match="would make this a line of #SBATCH"):
        fill("#{{v}}", params | {"v": "SBATCH --uid=0"}, "t.sh")
    with pytest.raises(UsageError, match="zero byte"):
        fill("show {{v}}", params | {"v": "a\0b"}, "t.sh")


def test_lines_are_kept_left_out_or_refused():
    params = {"cpu": 4, "mem": None, "v": "x", "main_partition": Code("#SBATCH -p long")}
    text = (
        "#!/bin/bash\n#SBATCH -c {{cpu}}\n#SBATCH --mem={{mem}}\n{{main_partition}}\n"
        "  if true; then  \n\techo {{ v }} {not this}\n"
    )
    filled = fill(text, params, "t.sh")
    assert filled.text == (
        "#!/bin/bash\n#SBATCH -c 4\n#SBATCH -p long\n  if true; then  \n\techo x {not this}\n"
    )
    assert filled.left_out == ["mem"]
    for bad, said in (
        ("echo {{cpus}}", r"t\.sh:1: \{\{cpus\}\} is no parameter; did you mean cpu\?"),
        ("echo {{zip_command}}", r"is no parameter; there are cpu, main_partition, mem, v"),
        ("echo {{mem}}", r"t\.sh:1: \{\{mem\}\} has no value: give sbatch\.mem"),
        ("echo {{a-b}}", r"t\.sh:1: \{\{ without a parameter's name"),
    ):
        with pytest.raises(UsageError, match=said):
            fill(bad, params, "t.sh")


def test_a_line_that_goes_on_has_no_comment_of_its_own(tmp_path):
    params = {"main_partition": Code(""), "v": "; touch HACKED ;"}
    run(fill("echo foo\\\n#{{v}}", params, "t.sh").text, tmp_path)


def test_an_array_keeps_the_account_and_not_another_array():
    head = _head("#SBATCH -A mine\n#SBATCH -a 0-9\n#SBATCH --array=0-9\n#SBATCH -J x\n")
    assert head == ["#SBATCH -A mine"]
