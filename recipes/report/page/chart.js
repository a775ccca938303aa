// One chart: the curves of a figure, a cursor with the values under it, zooming by dragging.

const EDGE = { left: 58, right: 14, top: 10, bottom: 34 };

class Chart {
  /** options: what `settings()` returns: {x, xName, log, range, full}, the last two [from, to]. on: {zoom(range), speak(text)}. */
  constructor(figure, settings, on) {
    this.figure = figure;
    this.settings = settings;
    this.on = on;
    this.lines = [];
    this.note = make("span", { class: "quiet" });
    this.svg = make("svg:svg", {
      tabindex: "0", role: "application", "aria-roledescription": "chart",
      "aria-label": `${figure.title}: arrows move along it, + and - zoom, 0 shows all`,
    });
    this.tip = make("div", { class: "tip", hidden: true, "aria-hidden": "true" });
    this.card = make("div", { class: "chart", "data-figure": figure.name },
      make("h3", null, figure.title, " ", this.note), this.svg, this.tip);
    this.at = null;
    this.listen();
  }

  /** lines: [{run, name, xs, ys, raw, band, starts}], all of which are shown. */
  draw(lines) {
    this.lines = lines;
    const box = this.svg.getBoundingClientRect();
    this.width = Math.max(220, box.width || 420);
    this.height = Math.max(140, box.height || 240);
    this.svg.setAttribute("viewBox", `0 0 ${this.width} ${this.height}`);
    const { range, log, full } = this.settings();
    this.full = full;
    [this.low, this.high] = range || full;
    if (!(this.high > this.low)) [this.low, this.high] = [this.low - 0.5, this.high + 0.5];
    const seen = [];
    for (const line of lines) {
      for (const ys of line.band ? [line.band.low, line.band.high] : [line.ys]) {
        line.xs.forEach((x, i) => { if (x >= this.low && x <= this.high) seen.push(ys[i]); });
        for (const edge of [this.low, this.high]) {
          const y = between(line.xs, ys, edge);
          if (y !== null) seen.push(y);
        }
      }
    }
    [this.bottom, this.top] = extent(seen);
    this.isLog = log && this.bottom > 0;
    this.note.textContent = log && !this.isLog && seen.length ? "(linear: not all are above 0)" : "";
    this.pad();
    this.paint();
    this.move(this.at);
  }

  pad() {
    if (this.isLog) {
      const ratio = Math.max(1.02, (this.top / this.bottom) ** 0.05);
      [this.bottom, this.top] = [this.bottom / ratio, this.top * ratio];
      return;
    }
    const gap = (this.top - this.bottom) * 0.06 || Math.abs(this.top) * 0.05 || 0.5;
    [this.bottom, this.top] = [this.bottom - gap, this.top + gap];
  }

  px(x) {
    const inner = this.width - EDGE.left - EDGE.right;
    return EDGE.left + ((x - this.low) / (this.high - this.low)) * inner;
  }

  py(y) {
    const inner = this.height - EDGE.top - EDGE.bottom;
    const [y0, low, high] = this.isLog
      ? [Math.log(y), Math.log(this.bottom), Math.log(this.top)] : [y, this.bottom, this.top];
    return this.height - EDGE.bottom - ((y0 - low) / (high - low)) * inner;
  }

  path(xs, ys) {
    // Points outside are cut by the frame; one on each side is kept, for the line to it.
    let first = xs.findIndex((x) => x >= this.low);
    if (first < 0) return "";
    first = Math.max(0, first - 1);
    let text = "";
    for (let i = first; i < xs.length; i++) {
      text += `${i === first ? "M" : "L"}${this.px(xs[i]).toFixed(1)} ${this.py(ys[i]).toFixed(1)}`;
      if (xs[i] > this.high) break;
    }
    return text;
  }

  paint() {
    const right = this.width - EDGE.right;
    const floor = this.height - EDGE.bottom;
    const parts = [];
    const clip = `clip-${Chart.count++}`;
    parts.push(make("svg:clipPath", { id: clip }, make("svg:rect", {
      x: EDGE.left, y: EDGE.top - 4, width: right - EDGE.left + 4, height: floor - EDGE.top + 8,
    })));
    const up = this.isLog ? logTicks(this.bottom, this.top) : ticks(this.bottom, this.top, 5);
    for (const y of up) {
      const at = this.py(y);
      parts.push(make("svg:line", { class: "grid", x1: EDGE.left, x2: right, y1: at, y2: at }));
      parts.push(make("svg:text", { x: EDGE.left - 6, y: at + 4, "text-anchor": "end" }, tickWords(y, up)));
    }
    for (const x of ticks(this.low, this.high, Math.max(2, Math.floor(this.width / 95)))) {
      const at = this.px(x);
      parts.push(make("svg:line", { class: "axis", x1: at, x2: at, y1: floor, y2: floor + 4 }));
      parts.push(make("svg:text", { x: at, y: floor + 17, "text-anchor": "middle" }, words(x, 4)));
    }
    parts.push(make("svg:line", { class: "axis", x1: EDGE.left, x2: right, y1: floor, y2: floor }));
    parts.push(make("svg:text", { x: right, y: this.height - 3, "text-anchor": "end" }, this.settings().xName));
    if (!this.figure.title.endsWith(this.figure.unit)) {
      parts.push(make("svg:text", { x: 0, y: this.height - 3 }, this.figure.unit));
    }
    const curves = make("svg:g", { "clip-path": `url(#${clip})` });
    for (const line of this.lines) {
      const own = marks(line.run);
      for (const x of line.starts) {
        if (x >= this.low && x <= this.high) {
          curves.append(make("svg:path", { class: `start ${own.split(" ")[0]}`,
            d: `M${this.px(x).toFixed(1)} ${EDGE.top}V${floor}` },
          make("svg:title", null, `${line.name} was launched again`)));
        }
      }
      if (line.band) curves.append(make("svg:path", { class: `band ${own}`, d: this.area(line) }));
      if (line.raw) curves.append(make("svg:path", { class: `raw ${own}`, d: this.path(line.xs, line.raw) }));
      if (line.xs.length === 1) {
        curves.append(make("svg:circle", { class: own, r: 4, cx: this.px(line.xs[0]), cy: this.py(line.ys[0]) }));
      } else {
        curves.append(make("svg:path", { class: `line ${own}`, "data-run": line.run, d: this.path(line.xs, line.ys) }));
      }
    }
    this.over = make("svg:g", null);
    this.picked = make("svg:rect", { class: "range", y: EDGE.top, height: floor - EDGE.top, x: 0, width: 0 });
    this.svg.replaceChildren(...parts, curves, this.picked, this.over);
  }

  area(line) {
    const upper = this.path(line.xs, line.band.high);
    const back = [...line.xs.keys()].reverse()
      .filter((i) => upper && line.xs[i] >= this.low && line.xs[i] <= this.high)
      .map((i) => `L${this.px(line.xs[i]).toFixed(1)} ${this.py(line.band.low[i]).toFixed(1)}`);
    return upper && back.length ? `${upper}${back.join("")}Z` : "";
  }

  /** The cursor to x (null: away); says the values aloud if `aloud`. */
  move(x, aloud = false) {
    this.at = x;
    if (x === null || !this.lines.length) {
      this.tip.hidden = true;
      if (this.over) this.over.replaceChildren();
      return;
    }
    const found = this.lines.map((line) => ({ line, i: nearest(line.xs, x) })).filter((f) => f.i >= 0);
    const main = found.reduce((a, b) =>
      Math.abs(a.line.xs[a.i] - x) <= Math.abs(b.line.xs[b.i] - x) ? a : b);
    const at = main.line.xs[main.i];
    const parts = [make("svg:line", { class: "cursor", x1: this.px(at), x2: this.px(at),
      y1: EDGE.top, y2: this.height - EDGE.bottom })];
    const rows = [];
    const said = [];
    for (const { line, i } of found) {
      const here = line.xs[i];
      if (here >= this.low && here <= this.high) {
        parts.push(make("svg:circle", { class: marks(line.run), r: 3.5,
          cx: this.px(here), cy: this.py(line.ys[i]) }));
      }
      const raw = line.raw ? ` (${words(line.raw[i])})` : "";
      const own = here === at ? "" : ` at ${words(here)}`;
      const spread = line.band ? ` [${words(line.band.low[i], 3)}, ${words(line.band.high[i], 3)}]` : "";
      rows.push(make("tr", null, make("td", null, swatch(line.run), line.name),
        make("td", null, `${words(line.ys[i])}${raw}${spread}${own}`)));
      said.push(`${line.name} ${words(line.ys[i])}${own}`);
    }
    this.over.replaceChildren(...parts);
    const title = `${this.settings().xName} ${words(at)}`;
    this.tip.replaceChildren(make("strong", null, title), make("table", null, make("tbody", null, ...rows)));
    this.tip.hidden = false;
    const half = this.px(at) > this.width / 2;
    this.tip.style.left = half ? "auto" : `${this.px(at) + 22}px`;
    this.tip.style.right = half ? `${this.width - this.px(at) + 22}px` : "auto";
    this.tip.style.top = "2.2rem";
    if (aloud) this.on.speak(`${this.figure.title}, ${title}: ${said.join(", ")}`);
  }

  value(event) {
    const box = this.svg.getBoundingClientRect();
    const inner = this.width - EDGE.left - EDGE.right;
    const share = ((event.clientX - box.left) * (this.width / box.width) - EDGE.left) / inner;
    return this.low + Math.min(1, Math.max(0, share)) * (this.high - this.low);
  }

  listen() {
    let begun = null;
    const svg = this.svg;
    svg.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      begun = { x: this.value(event), px: event.clientX };
      svg.setPointerCapture(event.pointerId);
    });
    svg.addEventListener("pointermove", (event) => {
      const x = this.value(event);
      this.move(x);
      if (begun && Math.abs(event.clientX - begun.px) > 4) {
        const [a, b] = [this.px(Math.min(x, begun.x)), this.px(Math.max(x, begun.x))];
        this.picked.setAttribute("x", a);
        this.picked.setAttribute("width", b - a);
      }
    });
    svg.addEventListener("pointerup", (event) => {
      const from = begun;
      begun = null;
      this.picked.setAttribute("width", 0);
      if (from && Math.abs(event.clientX - from.px) > 4) {
        const x = this.value(event);
        if (x !== from.x) this.on.zoom([Math.min(x, from.x), Math.max(x, from.x)]);
      }
    });
    svg.addEventListener("pointercancel", () => { begun = null; this.picked.setAttribute("width", 0); });
    svg.addEventListener("pointerleave", () => { if (!begun) this.move(null); });
    svg.addEventListener("dblclick", () => this.on.zoom(null));
    svg.addEventListener("blur", () => this.move(null));
    svg.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || !this.lines.length) return;
    const xs = [...new Set(this.lines.flatMap((l) => l.xs))].sort((a, b) => a - b)
      .filter((x) => x >= this.low && x <= this.high);
    const middle = this.at === null ? (this.low + this.high) / 2 : this.at;
    const here = Math.max(0, nearest(xs, middle));
    const half = (this.high - this.low) / 2;
    const moves = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -1e9, End: 1e9 };
    if (event.key in moves && xs.length) {
      const next = this.at === null ? here : here + moves[event.key];
      this.move(xs[Math.min(xs.length - 1, Math.max(0, next))], true);
    } else if (event.key === "+" || event.key === "=") {
      this.on.zoom([middle - half / 2, middle + half / 2]);
    } else if (event.key === "-") {
      const wide = [middle - 2 * half, middle + 2 * half];
      const all = wide[0] <= this.full[0] && wide[1] >= this.full[1];
      this.on.zoom(all ? null : wide);
    } else if (event.key === "0" || event.key === "Escape") {
      if (event.key === "Escape") this.move(null);
      this.on.zoom(null);
    } else {
      return;
    }
    event.preventDefault();
  }
}
Chart.count = 0;
