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
    'export X={{v}}; show "$X"',
    "# {{v}}\nshow {{v}}",
    "true # it's {{v}}\nshow {{v}}",
    "if [ {{v}} != zzz ]; then show {{v}}; fi",
    "Y=${X%%$'\\n'*}; show {{v}}",
    "Y=$((1 + (2 * 3))); show {{v}}",
    "(( 1 + 1 )); [[ a == a ]] && show {{v}}",
    'show "a \\" b" {{v}}',
    'case "$HOME" in zzz) false ;; *) show {{v}} ;; esac',
    "for x in a {{v}}; do show x; done; show {{v}}",
    "show 2>&1 {{v}} &> /dev/null; show {{v}}",
    "f() { show {{v}}; }; f",
    """bash -ec 'printf "%s|" "$1"' x {{v}}""",
    'eval "true"; show {{v}}',
    'show {{v}} "${X[@]}"',
    "a=(x '(' y); show {{v}}",
    "show a | cat; show {{v}}",
    'printf "%s|" {{v}}; [ a = {{v}} ] || test -n x{{v}} && timeout 5 printf "%s|" {{v}}',
]
QUOTED = ['show "{{v}}"', "show '{{v}}'", 'show "\n{{v}}"', "show $'{{v}}'"]
INSIDE = [
    "eval \\\n  show {{v}}",
    "bash -c \\\n  {{v}}",
    "show `show {{v}}`",
    'show "`show {{v}}`"',
    "echo ${X:-{{v}}}",
    "X=Y; echo ${X{{v}}}",
    'echo "${X:-$(show {{v}})}"',
    "(( {{v}} ))",
    "X=$(( {{v}} ))",
    "cat << END\n{{v}}\nEND",
    "cat <<'END'\n{{v}}\nEND",
    "eval show {{v}}",
    'eval "show {{v}}"',
    'eval "$(show {{v}})"',
    "bash -c {{v}}",
    "bash -e -c {{v}}",
    "bash -o pipefail -c {{v}}",
    "bash -c 'eval \"$1\"' bash -c {{v}}",
    "nice -n 1 bash -c {{v}}",
    "env -S {{v}}",
    'S=bash; "$S" -c {{v}}',
    "S='bash -c'; $S {{v}}",
    'S=(bash -c); "${S[@]}" {{v}}',
    "/bin/sh -ec {{v}}",
    "bash <<< {{v}}",
    "bash < <(echo {{v}})",
    ". <(echo {{v}})",
    "$(show {{v}})",
    "{{v}}",
    "X=1 {{v}}",
    "{{v}}/bin/true",
    "command {{v}}",
    "show $(case x in x) show y ;; esac) {{v}}",
    "X=$(case x in a) show y; esac; {{v}} )",
    "(case x in x) show y ;; esac; {{v}})",
    "[[ {{v}} -eq 1 ]]",
    "[[ 1 -eq 1 && 1 -eq {{v}} ]]",
    "test -v {{v}}",
    "[ -v {{v}} ]",
    "printf -v {{v}} x",
    "printf {{v}} x",
    "[ {{v}} {{v}} ]",
    "test ! {{v}} {{v}}",
    "show x >& {{v}}",
    "jobs -x {{v}} HACKED",
    "timeout 5 {{v}} HACKED",
    "setsid {{v}} HACKED",
    "nice -n 10 {{v}} HACKED",
    "timeout -k 5 10 {{v}} HACKED",
    "time -p {{v}} HACKED",
    "flock x {{v}} {{v}}",
    "tar cf x.tar . --checkpoint=1 --checkpoint-action=exec={{v}}",
    "read {{v}} < /dev/null",
    "unset {{v}}",
    "declare {{v}}",
    "declare -i X; X={{v}}",
    "a[{{v}}]=1",
    "a=({{v}})",
    "PS4={{v}}; set -x; true",
    "trap {{v}} EXIT",
    "show \\{{v}}",
    "show ${{v}}",
    'show "\\{{v}}"',
]
PIPED = [
    "echo {{v}} | bash",
    "echo {{v}} |\n  bash",
    "{ echo {{v}}; } | bash -s",
    "(echo {{v}}) | tee x | xargs -I% sh -c %",
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
        try:
            text = fill(place, {"v": value, "main_partition": Code("")}, "t.sh").text
        except UsageError as error:
            assert value == "-n" and "could take for an option" in str(error)
            continue
        done = run(text, tmp_path)
        assert done.returncode == 0 and not done.stderr, (value, text, done.stderr)
        if '"$(' not in place and "\n" not in place:
            assert f"{value}|" in done.stdout, (value, text)


@pytest.mark.parametrize("place", [*QUOTED, *INSIDE])
def test_where_quotes_would_not_hold_a_value_has_to_be_a_plain_one(place, tmp_path):
    params = {"main_partition": Code("")}
    for value in [*NASTY, "reboot", "@P", "END"]:
        if place in QUOTED and value == "-n":
            with pytest.raises(UsageError, match="`show` could take for an option"):
                fill(place, params | {"v": value}, "t.sh")
            continue
        if place in QUOTED and value in ("reboot", "@P", "END"):  # plain ones
            run(fill(place, params | {"v": value}, "t.sh").text, tmp_path)
            continue
        with pytest.raises(UsageError, match=r"t\.sh:\d: \{\{v\}\} stands "):
            fill(place, params | {"v": value}, "t.sh")
    run(fill(place, params | {"v": "12"}, "t.sh").text, tmp_path)


@pytest.mark.parametrize(
    "place",
    [
        "tar cf {{v}} x", 'tar cf "{{v}}" x', "tar -cf {{v}} x", "show ''{{v}}", 'show ""{{v}} x',
        "cd {{v}}", "nice -n 10 show {{v}}", "timeout 5 show {{v}}",
        "X=1 show {{v}}", "show -o {{v}}", "show 2> x {{v}}", "true -- ; show {{v}}",
        'X=; show "$X"{{v}}', "show {{empty}}{{v}}", "show \\\n  {{v}}", "( show {{v}} )",
        'show "$(show {{v}})"', "if show {{v}}; then :; fi",
    ],
)  # fmt: skip
def test_a_value_that_begins_with_a_dash_is_no_option_of_a_program(place):
    params = {"main_partition": Code(""), "empty": ""}
    for value in ("-n", "--checkpoint=1", "--evil=a", "-1", "-"):
        with pytest.raises(
            UsageError, match=r"t\.sh:\d: \{\{v\}\} is '-.*take for an option.*write"
        ):
            fill(place, params | {"v": value}, "t.sh")
    fill(place, params | {"v": "a-b"}, "t.sh")


@pytest.mark.parametrize(
    "place",
    [
        "show -- {{v}}", "show a -- b {{v}}", "show --opt={{v}}", "show -o{{v}}", "show ./{{v}}",
        'show "a {{v}}"', "X={{v}}", "show > {{v}}", "for x in {{v}}; do show; done", "echo {{v}}",
        "nice -n 10 show -- {{v}}", "timeout 5 show -- {{v}}", "[ {{v}} = x ]", 'printf "%s" {{v}}',
        "bash -c 'show \"$1\"' x {{v}}", "case {{v}} in x) show ;; esac", "# {{v}}",
    ],
)  # fmt: skip
def test_where_a_dash_is_data_it_may_begin_a_value(place):
    for value in ("-n", "-1"):
        fill(place, {"main_partition": Code(""), "v": value}, "t.sh")


def test_a_negative_number_may_stand_behind_its_option():
    params = {"main_partition": Code("")}
    for value in ("-1", "-0.5", "-.5", "-1e-05"):
        assert (
            fill("show --x {{v}} y", params | {"v": value}, "t.sh").text == f"show --x {value} y\n"
        )
    for value in ("-n", "-1x", "--1"):
        with pytest.raises(UsageError, match="take for an option"):
            fill("show --x {{v}}", params | {"v": value}, "t.sh")


@pytest.mark.parametrize("place", PIPED)
def test_what_has_values_is_piped_into_no_shell(place):
    with pytest.raises(UsageError, match=r"t\.sh:\d: a pipe into `.*`, behind values"):
        fill(place, {"main_partition": Code(""), "v": "x"}, "t.sh")


def test_several_words_are_no_part_of_one():
    params = {"main_partition": Code(""), "v": ("--tag", "reboot")}
    assert fill("show {{v}}", params, "t.sh").text == "show --tag reboot\n"
    for place in ("X={{v}}", "show > {{v}}", 'show "{{v}}"'):
        with pytest.raises(UsageError, match=r"t\.sh:1: \{\{v\}\} stands in"):
            fill(place, params, "t.sh")


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


def test_an_array_asks_for_nothing_that_stands_in_a_value():
    template = "#!/bin/bash\n\n  # A\n#SBATCH -A mine\nexport NOTE={{v}}\n"
    params = {"main_partition": Code(""), "v": "a note\n#SBATCH --partition=other\n"}
    assert _head(fill(template, params, "t.sh").text) == ["#SBATCH -A mine"]
