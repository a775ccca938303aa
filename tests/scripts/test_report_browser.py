"""The page of report.py in a real browser, by clicking, dragging and typing. Skipped where there is
no Chromium (tests/scripts/browser.py says how to get it)."""

from __future__ import annotations

import math
import threading
import time
from pathlib import Path

import pytest

from recipes.report import server
from tests.scripts.browser import KEYS, MISSING, browser
from tests.scripts.made_runs import IMLE, make_run
from tests.scripts.support import load
from tests.scripts.test_report import add_sheets

pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

STEPS = range(0, 500, 5)
EVIL = "</script><img src=x onerror=document.title='taken'>"
LOSS = '.chart[data-figure="batch loss"]'
NOW = "return document.querySelector(arguments[0])"


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Two seeds and another rate: losses that fall by known laws, a sheet every 100 steps."""
    home = tmp_path_factory.mktemp("results")
    for k, (name, options) in enumerate({
        "seed0-00000001": {"seed": 0}, "seed1-00000002": {"seed": 1},
        EVIL.replace("/", "") + "-00000003": {"seed": 0, "lr": 0.1},
    }.items()):  # fmt: skip
        rows = [
            {"step": s, "batch loss": (1 + k) * math.exp(-s / 100) + 0.01 * (s % 2), "nimg": 8 * s,
             "val/psnr": 20 + k + s / 100, "time/step_s": 0.1, EVIL: 1.0 * s}
            for s in STEPS
        ]  # fmt: skip
        run = make_run(home, name, options={**IMLE, **options}, rows=rows)
        add_sheets(run, range(0, 400 - 100 * k, 100))
    return home


@pytest.fixture(scope="module")
def address(results):
    """The page as a file, as one gets it by mail."""
    script = load("report")
    runs = sorted(map(str, (results / "TrainGeneratorWandB").iterdir()), reverse=True)
    runs = [*runs[1::-1], *runs[2:]]  # seed0, seed1, the evil one
    script.main(script.get_args(None, [*runs, "--results_path", str(results)]))
    return next((results / "report").glob("*.html")).as_uri()


@pytest.fixture(scope="module")
def window():
    with browser() as found:
        yield found


@pytest.fixture
def page(window, address):
    window.open("about:blank")
    window.open(address)
    yield window
    assert window.errors() == []
    assert window.js("return document.title").startswith("3 runs")
    assert window.js("return document.querySelectorAll('img[src=x]').length") == 0


def lines(page, chart=LOSS):
    """{run: points of its curve, in pixels}."""
    found = page.js(
        "return [...document.querySelectorAll(arguments[0] + ' path.line')]"
        ".map((p) => [p.dataset.run, p.getAttribute('d')])", chart)  # fmt: skip
    points = lambda d: [tuple(map(float, p.split())) for p in d[1:].split("L")]  # noqa: E731
    return {int(run): points(d) for run, d in found}


def ticks(page, chart=LOSS, anchor="middle"):
    words = page.js(
        "return [...document.querySelectorAll(arguments[0])].map((t) => t.textContent)"
        ".filter((t) => t.trim() !== '' && !isNaN(t))",
        f"{chart} text[text-anchor={anchor}]",
    )
    return [float(word) for word in words]


def test_a_drag_zooms_all_charts_and_a_double_click_shows_all(page):
    before = ticks(page)
    assert min(before) == 0 and max(before) >= 400 and len(lines(page)[0]) == len(STEPS)
    page.pointer(f"{LOSS} svg", [(0.5, 0.5), (0.6, 0.5), (0.75, 0.4)], press=True)
    for chart in (LOSS, '.chart[data-figure="val/psnr"]'):
        now = ticks(page, chart)
        assert 150 < min(now) and max(now) < 400, now
    assert max(ticks(page, anchor="end")) < 0.5  # the height follows what is seen
    assert page.js(NOW + ".disabled", "#unzoom") is False
    page.js(NOW + ".dispatchEvent(new MouseEvent('dblclick', {bubbles: true}))", f"{LOSS} svg")
    assert ticks(page) == before
    page.pointer(f"{LOSS} svg", [(0.2, 0.5), (0.5, 0.5)], press=True)
    page.click("#unzoom")
    assert ticks(page) == before


def test_hovering_shows_the_values_of_all_runs_there(page):
    assert page.js(NOW + ".hidden", f"{LOSS} .tip")
    page.pointer(f"{LOSS} svg", [(0.3, 0.5), (0.4, 0.5)], press=False)
    words = page.js(NOW + ".innerText", f"{LOSS} .tip")
    step = int(words.split("\n")[0].removeprefix("step "))
    assert step in STEPS and 100 < step < 250
    for k in range(3):
        value = (1 + k) * math.exp(-step / 100) + 0.01 * (step % 2)
        assert f"{value:.4g}".rstrip("0") in words
    page.pointer("h1", [(0.5, 0.5)], press=False)
    assert page.js(NOW + ".hidden", f"{LOSS} .tip")


def test_keys_move_the_cursor_say_the_values_and_zoom(page):
    page.js(NOW + ".focus()", f"{LOSS} svg")
    page.keys(f"{LOSS} svg", KEYS["right"] + KEYS["right"])
    said = page.js(NOW + ".textContent", "#spoken")
    assert said.startswith("batch loss, step ") and "seed1-00000002" in said
    before = ticks(page)
    page.keys(f"{LOSS} svg", "++")
    assert max(ticks(page)) - min(ticks(page)) < (max(before) - min(before)) / 2
    page.keys(f"{LOSS} svg", "0")
    assert ticks(page) == before


def test_log_scale_makes_an_exponential_a_line(page):
    def bend():
        points = lines(page)[0][::2]  # even steps: a pure exponential
        (x0, y0), (x1, y1), (x2, y2) = points[0], points[len(points) // 2], points[-1]
        return abs(y1 - (y0 + (y2 - y0) * (x1 - x0) / (x2 - x0)))

    assert bend() > 20
    page.click("#log")
    assert bend() < 1
    assert "(linear" in page.js(NOW + ".textContent", f".chart[data-figure={quoted(EVIL)}] h3")


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_smoothing_is_a_running_mean_and_keeps_the_raw_curve(page):
    def rough(points):
        return sum(abs(a[1] - 2 * b[1] + c[1])
                   for a, b, c in zip(points, points[1:], points[2:], strict=False))  # fmt: skip

    before = lines(page)[0]
    page.js("const s = document.querySelector('#smooth'); s.value = 0.9;"
            "s.dispatchEvent(new Event('input'))")  # fmt: skip
    after = lines(page)[0]
    assert rough(after) < rough(before) / 5
    assert page.js("return document.querySelectorAll(arguments[0]).length", f"{LOSS} .raw") == 3
    assert page.js(NOW + ".textContent", "#smoothed") == "0.90"


def test_runs_go_and_come_by_either_switch(page):
    page.click('button.toggle[data-run="1"]')
    assert set(lines(page)) == {0, 2}
    assert page.js(NOW + ".checked", 'input.show[data-run="1"]') is False
    shown = "return [...document.querySelectorAll('.sheets figure')].map((f) => f.dataset.run)"
    assert page.js(shown) == ["0", "2"]
    page.click('input.show[data-run="1"]')
    page.click('input.show[data-run="0"]')
    assert set(lines(page)) == {1, 2}
    assert page.js(NOW + ".getAttribute('aria-pressed')", 'button.toggle[data-run="0"]') == "false"


def test_figures_are_chosen_and_what_is_drawn_over(page):
    assert page.js("return document.querySelectorAll('.chart').length") == 3
    page.click("#chooser summary")
    page.click("#noones")
    page.keys("#find", "PSNR")
    seen = "return [...document.querySelectorAll('#choice label')].filter((l) => !l.hidden)" \
        ".map((l) => l.textContent.trim())"  # fmt: skip
    assert page.js(seen) == ["val/psnr"]
    page.click('#choice input[data-figure="val/psnr"]')
    chart = '.chart[data-figure="val/psnr"]'
    assert page.js("return document.querySelectorAll('.chart').length") == 1
    page.js("const x = document.querySelector('#x'); x.value = 'nimg';"
            "x.dispatchEvent(new Event('change'))")  # fmt: skip
    assert 3000 <= max(ticks(page, chart)) <= 8 * STEPS[-1]
    page.js("const x = document.querySelector('#x'); x.value = 'h';"
            "x.dispatchEvent(new Event('change'))")  # fmt: skip
    assert max(ticks(page, chart)) <= STEPS[-1] * 0.1 / 3600


def test_seeds_become_a_mean_with_its_range(page):
    page.click("#mean")
    assert set(lines(page)) == {0, 2}
    assert page.js("return document.querySelectorAll(arguments[0]).length", f"{LOSS} .band") == 1
    page.pointer(f"{LOSS} svg", [(0.3, 0.5), (0.4, 0.5)], press=False)
    words = page.js(NOW + ".innerText", f"{LOSS} .tip")
    step = int(words.split("\n")[0].removeprefix("step "))
    middle = 1.5 * math.exp(-step / 100) + 0.01 * (step % 2)
    assert "mean of 2 seeds" in words and f"{middle:.4g}".rstrip("0") in words


def test_the_slider_goes_through_the_steps_of_the_sheets(page):
    shown = ("return [...document.querySelectorAll('.sheets figure')]"
             ".map((f) => f.dataset.step || 'none')")  # fmt: skip
    assert page.js(shown) == ["300", "200", "100"]  # the newest of each
    page.keys("#step", KEYS["left"])
    assert page.js(shown) == ["200", "200", "100"]
    page.keys("#step", KEYS["left"] * 3)
    assert page.js(shown) == ["0", "0", "0"]
    assert page.js(NOW + ".textContent", "#atstep") == "0 (1 of 4)"
    assert page.js(NOW + ".naturalWidth", ".sheets img") == 32
    page.click(".sheets button")
    assert page.js(NOW + ".open", "#dialog") and "step 0" in page.js(NOW + ".innerText", "#large")
    page.click("#dialog form button")
    assert not page.js(NOW + ".open", "#dialog")
    page.click("#play")
    time.sleep(0.2)
    assert page.js(shown)[0] == "100" and page.js(NOW + ".textContent", "#play") == "Stop"
    page.click("#play")


def test_what_was_chosen_outlives_loading_again(page):
    page.click("#log")
    page.click('button.toggle[data-run="1"]')
    page.pointer(f"{LOSS} svg", [(0.5, 0.5), (0.75, 0.4)], press=True)
    page.keys("#step", KEYS["left"])
    chosen = ticks(page)
    time.sleep(0.4)
    page.js("location.reload()")
    time.sleep(0.5)
    assert page.js(NOW + ".checked", "#log") and set(lines(page)) == {0, 2}
    assert ticks(page) == chosen
    assert page.js(NOW + ".textContent", "#atstep").startswith("200")


def test_themes_have_enough_contrast(page):
    ratio = """
    const light = (c) => { const [r, g, b] = c.match(/[\\d.]+/g).slice(0, 3).map(Number)
      .map((v) => v / 255).map((v) => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
      return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const ground = light(getComputedStyle(document.body).backgroundColor);
    return [...document.querySelectorAll('body, .quiet, a, .swatch')].map((e) => {
      const own = light(getComputedStyle(e).color);
      return (Math.max(own, ground) + 0.05) / (Math.min(own, ground) + 0.05); })"""
    for words in ("as the system", "dark", "light"):
        assert page.js(NOW + ".textContent", "#theme") == f"Theme: {words}"
        assert min(page.js(ratio)) >= 4.5  # WCAG 2.2, 1.4.3
        page.click("#theme")


def test_every_control_has_a_name_and_can_be_reached(page):
    nameless = page.js(
        "return [...document.querySelectorAll('button, input, select, svg, [role=group]')]"
        ".filter((e) => !(e.textContent.trim() || e.getAttribute('aria-label') || e.labels?.length"
        " || e.querySelector('img')?.alt))"
        ".map((e) => e.outerHTML)")  # fmt: skip
    assert nameless == []
    assert page.js("return [...document.querySelectorAll('[tabindex]')]"
                   ".filter((e) => e.tabIndex > 0).length") == 0  # fmt: skip


def wait_for_title(window, words):
    """Until a page whose heading is this has come; a minute, where machines are busy."""
    deadline = time.monotonic() + 60
    while window.js("return document.querySelector('h1')?.textContent") != words:
        assert time.monotonic() < deadline, window.js("return document.body.innerText")[:500]
        time.sleep(0.05)


def test_the_list_of_runs_leads_to_a_page_side_by_side(results, window):
    with server.Server(results, 0, limit=5_000_000, every=4.0) as served:
        threading.Thread(target=served.serve_forever, args=(0.02,), daemon=True).start()
        window.open(served.address)
        window.click('input[value="TrainGeneratorWandB/seed0-00000001"]')
        window.click('input[value="TrainGeneratorWandB/seed1-00000002"]')
        window.click("form button")
        wait_for_title(window, "2 runs")
        assert set(lines(window)) == {0, 1}
        window.click("nav a")
        wait_for_title(window, "Runs")
        assert window.errors() == []
        served.shutdown()


def test_a_page_that_follows_a_run_loads_again_unless_it_is_paused(results, window, tmp_path):
    file = tmp_path / "on.html"
    page = next(Path(results / "report").glob("*.html")).read_text()
    watched = load("report").page
    reads = [load("report").reading.read(results / "TrainGeneratorWandB" / "seed0-00000001")]
    encoder = load("report").pictures.Encoder()
    built = watched.build(reads, limit=5_000_000, encoder=encoder, every=1.0)
    assert built.text != page
    file.write_text(built.text)
    window.open(file.as_uri())
    file.write_text(built.text.replace("<h1>", "<h1>anew "))
    wait_for_title(window, "anew seed0-00000001")
    window.click("#pause")
    file.write_text(built.text.replace("<h1>", "<h1>later "))
    time.sleep(4.5)
    assert window.js("return document.querySelector('h1').textContent").startswith("anew")
    window.js("sessionStorage.clear()")
