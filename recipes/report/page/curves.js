// All charts: which figures are drawn, over what, of which runs, and the buttons for that.

/** Whether a run is shown; the boxes of the table and the buttons above the charts say the same. */
class Shown {
  constructor(count, state, changed) {
    this.hidden = state.hidden;
    this.changed = changed;
    this.count = count;
    for (const box of document.querySelectorAll("input.show")) {
      box.addEventListener("change", () => this.set(Number(box.dataset.run), box.checked));
    }
    for (const button of document.querySelectorAll("button.toggle")) {
      const run = Number(button.dataset.run);
      button.addEventListener("click", () => this.set(run, this.hidden.has(run)));
    }
    this.tell();
  }

  set(run, on) {
    if (on) this.hidden.delete(run); else this.hidden.add(run);
    this.tell();
    this.changed();
  }

  has(run) { return !this.hidden.has(run); }

  tell() {
    for (const box of document.querySelectorAll("input.show")) {
      box.checked = this.has(Number(box.dataset.run));
      box.closest("tr").classList.toggle("off", !box.checked);
    }
    for (const button of document.querySelectorAll("button.toggle")) {
      button.setAttribute("aria-pressed", String(this.has(Number(button.dataset.run))));
    }
  }
}

const X_NAMES = { step: "step", nimg: "images seen", h: "hours of training" };

class Curves {
  constructor(data, state, shown, keep) {
    Object.assign(this, { data, state, shown, keep, charts: new Map() });
    this.on = {
      zoom: (range) => this.zoom(range),
      speak: (text) => { byId("spoken").textContent = text; },
    };
    this.known = new Set(data.figures.map((f) => f.name));
    state.figures = state.figures.filter((name) => this.known.has(name));
    this.controls();
    this.choice();
    new ResizeObserver(() => this.draw()).observe(byId("charts"));
    this.draw();
  }

  controls() {
    const { state } = this;
    const across = byId("x");
    for (const option of across.options) {
      if (option.value !== "step" && !this.data.runs.some((r) => r.axis[option.value])) option.disabled = true;
    }
    across.value = state.x;
    across.addEventListener("change", () => { state.x = across.value; this.zoom(null); });
    const log = byId("log");
    log.checked = state.log;
    log.addEventListener("change", () => { state.log = log.checked; this.changed(); });
    const smooth = byId("smooth");
    smooth.value = state.smooth;
    const told = () => { byId("smoothed").textContent = state.smooth ? state.smooth.toFixed(2) : "none"; };
    smooth.addEventListener("input", () => { state.smooth = Number(smooth.value); told(); this.changed(); });
    told();
    const mean = byId("mean");
    if (mean) {
      mean.checked = state.mean;
      mean.addEventListener("change", () => { state.mean = mean.checked; this.changed(); });
    }
    byId("unzoom").addEventListener("click", () => this.zoom(null));
    byId("firstones").addEventListener("click", () => this.choose(this.data.first));
    byId("noones").addEventListener("click", () => this.choose([]));
    byId("find").addEventListener("input", (event) => {
      const word = event.target.value.toLowerCase();
      for (const label of byId("choice").children) {
        label.hidden = !label.textContent.toLowerCase().includes(word);
      }
    });
  }

  choice() {
    for (const figure of this.data.figures) {
      const box = make("input", { type: "checkbox", "data-figure": figure.name });
      box.addEventListener("change", () => {
        const rest = this.state.figures.filter((name) => name !== figure.name);
        this.choose(box.checked ? [...rest, figure.name] : rest);
      });
      byId("choice").append(make("label", null, box, " ", figure.name));
    }
  }

  choose(names) {
    this.state.figures = this.data.figures.map((f) => f.name).filter((name) => names.includes(name));
    this.changed();
  }

  zoom(range) {
    this.state.zoom = range;
    this.changed();
  }

  changed() {
    this.draw();
    this.keep();
  }

  /** Steps of run k in what the charts are drawn over; null where the run does not tell. */
  across(k, steps) {
    const { axis } = this.data.runs[k];
    if (this.state.x === "step") return steps;
    const to = axis[this.state.x];
    if (!to) return null;
    const last = axis.s.length - 1;
    return steps.map((s) => (s > axis.s[last] ? to[last] : between(axis.s, to, s)));
  }

  lines(name) {
    const found = [];
    const { smooth, mean } = this.state;
    const together = mean ? this.data.groups : [];
    const grouped = new Set(together.flat());
    for (const group of together) {
      const line = this.meanOf(name, group.filter((k) => this.shown.has(k)));
      if (line) found.push(line);
    }
    this.data.runs.forEach((run, k) => {
      const curve = run.curves[name];
      if (!curve || !this.shown.has(k) || grouped.has(k)) return;
      const xs = this.across(k, curve.s);
      if (!xs) return;
      found.push({
        run: k, name: run.name, xs, ys: smoothed(curve.v, smooth),
        raw: smooth ? curve.v : null, starts: this.across(k, run.starts) || [],
      });
    });
    return found;
  }

  /** Mean and range of runs that differ by the seed, at the steps of the first, as far as all go. */
  meanOf(name, group) {
    const own = group.filter((k) => this.data.runs[k].curves[name]);
    if (own.length < 2) return null;
    const curves = own.map((k) => {
      const curve = this.data.runs[k].curves[name];
      return { xs: this.across(k, curve.s), ys: smoothed(curve.v, this.state.smooth) };
    });
    if (curves.some((c) => !c.xs)) return null;
    const line = { run: own[0], name: `mean of ${own.length} seeds`, xs: [], ys: [], raw: null,
      band: { low: [], high: [] }, starts: [] };
    for (const x of curves[0].xs) {
      const ys = curves.map((c) => between(c.xs, c.ys, x));
      if (ys.some((y) => y === null)) continue;
      line.xs.push(x);
      line.ys.push(ys.reduce((a, b) => a + b, 0) / ys.length);
      line.band.low.push(Math.min(...ys));
      line.band.high.push(Math.max(...ys));
    }
    return line.xs.length ? line : null;
  }

  draw() {
    const { state, data } = this;
    const lines = new Map(state.figures.map((name) => [name, this.lines(name)]));
    const ends = [...lines.values()].flat().flatMap((l) => [l.xs[0], l.xs[l.xs.length - 1]]);
    const full = extent(ends);
    this.settings = { x: state.x, xName: X_NAMES[state.x], log: state.log, range: state.zoom, full };
    const settings = () => this.settings;
    const cards = [];
    for (const figure of data.figures) {
      if (!state.figures.includes(figure.name)) continue;
      if (!this.charts.has(figure.name)) this.charts.set(figure.name, new Chart(figure, settings, this.on));
      cards.push(this.charts.get(figure.name).card);
    }
    const place = byId("charts");
    const same = cards.length === place.children.length && cards.every((c, i) => place.children[i] === c);
    if (!same) place.replaceChildren(...cards);
    for (const name of state.figures) this.charts.get(name).draw(lines.get(name));
    byId("unzoom").disabled = !state.zoom;
    byId("chosen").textContent = `${cards.length} of ${data.figures.length} are drawn`;
    for (const box of byId("choice").querySelectorAll("input")) {
      box.checked = state.figures.includes(box.dataset.figure);
    }
  }
}
