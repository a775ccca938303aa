// Sheets of samples: a slider over the steps, of each run the newest sheet up to there.

class Sheets {
  constructor(data, state, shown, keep) {
    Object.assign(this, { data, state, shown, keep, timer: null });
    if (!byId("sheets")) return;
    const names = [...new Set(data.sheets.flat().map((sheet) => sheet.name))];
    byId("sheet").append(...names.map((name) => make("option", { value: name }, name)));
    if (!names.includes(state.sheet)) state.sheet = names[0] || "";
    byId("sheet").value = state.sheet;
    byId("sheet").addEventListener("change", (event) => {
      state.sheet = event.target.value;
      state.at = null;
      this.draw();
      this.keep();
    });
    byId("step").addEventListener("input", () => {
      this.stop();
      state.at = this.steps[Number(byId("step").value)];
      this.draw();
      this.keep();
    });
    byId("play").addEventListener("click", () => (this.timer ? this.stop() : this.play()));
    byId("dialog").addEventListener("click", (event) => {
      if (event.target === byId("dialog")) byId("dialog").close();
    });
    this.draw();
  }

  /** state.at null stands for the last step there is, so that a run that goes on is followed. */
  draw() {
    if (!byId("sheets")) return;
    const own = this.data.sheets.map((sheets) => sheets.filter((s) => s.name === this.state.sheet));
    const there = own.flatMap((sheets, k) => (this.shown.has(k) ? sheets.map((s) => s.step) : []));
    this.steps = [...new Set(there)].sort((a, b) => a - b);
    const last = Math.max(0, this.steps.length - 1);
    const index = this.state.at === null ? last : Math.max(0, nearest(this.steps, this.state.at));
    const slider = byId("step");
    slider.max = last;
    slider.value = index;
    slider.disabled = last === 0;
    byId("play").disabled = last === 0;
    const step = this.steps[index];
    const words = step === undefined ? "none" : `${step} (${index + 1} of ${this.steps.length})`;
    byId("atstep").textContent = words;
    slider.setAttribute("aria-valuetext", `step ${words}`);
    const figures = [];
    own.forEach((sheets, k) => {
      if (!this.shown.has(k) || !sheets.length) return;
      figures.push(this.figure(k, sheets.filter((s) => s.step <= step).pop()));
    });
    byId("sheets").replaceChildren(...figures);
  }

  figure(k, sheet) {
    const { name } = this.data.runs[k];
    const caption = make("figcaption", null, swatch(k), name, sheet ? `, step ${sheet.step}` : ": none yet");
    if (!sheet) return make("figure", { "data-run": k }, caption);
    const about = `${sheet.name} of ${name} at step ${sheet.step}`;
    const image = () => make("img", { src: sheet.src, alt: about, width: sheet.w, height: sheet.h });
    const button = make("button", { type: "button", title: "in its full size" }, image());
    button.addEventListener("click", () => {
      byId("large").replaceChildren(make("strong", null, about), image());
      byId("dialog").showModal();
    });
    return make("figure", { "data-run": k, "data-step": sheet.step }, caption, button);
  }

  play() {
    const next = () => {
      const index = (Number(byId("step").value) + 1) % this.steps.length;
      this.state.at = this.steps[index];
      this.draw();
    };
    this.timer = setInterval(next, 700);
    next();
    byId("play").textContent = "Stop";
    byId("play").setAttribute("aria-pressed", "true");
  }

  stop() {
    if (!this.timer) return;
    clearInterval(this.timer);
    this.timer = null;
    byId("play").textContent = "Play";
    byId("play").setAttribute("aria-pressed", "false");
    this.keep();
  }
}
