// Puts the parts together. What one has chosen is kept behind the # of the address, so that it
// outlives loading the page again, and a link shows the same.

function readState(data) {
  const kept = new URLSearchParams(location.hash.startsWith("#~") ? location.hash.slice(2) : "");
  const number = (name, otherwise) => {
    const value = Number(kept.get(name));
    return kept.has(name) && Number.isFinite(value) ? value : otherwise;
  };
  const zoom = (kept.get("zoom") || "").split(",").map(Number);
  const hidden = (kept.get("hidden") || "").split(",").filter(Boolean).map(Number);
  return {
    x: X_NAMES[kept.get("x")] ? kept.get("x") : "step",
    log: kept.get("log") === "1",
    mean: kept.get("mean") === "1",
    smooth: Math.min(0.98, Math.max(0, number("smooth", 0))),
    zoom: zoom.length === 2 && zoom.every(Number.isFinite) && zoom[0] < zoom[1] ? zoom : null,
    hidden: new Set(hidden.filter((k) => data.runs[k])),
    figures: kept.has("figure") ? kept.getAll("figure").filter(Boolean) : [...data.first],
    sheet: kept.get("sheet") || "",
    at: number("at", null),
  };
}

function written(state, data) {
  const kept = new URLSearchParams();
  if (state.x !== "step") kept.set("x", state.x);
  if (state.log) kept.set("log", "1");
  if (state.mean) kept.set("mean", "1");
  if (state.smooth) kept.set("smooth", state.smooth);
  if (state.zoom) kept.set("zoom", state.zoom.map((v) => Number(v.toPrecision(8))).join(","));
  if (state.hidden.size) kept.set("hidden", [...state.hidden].join(","));
  if (state.figures.join("\n") !== data.first.join("\n")) {
    for (const name of state.figures.length ? state.figures : [""]) kept.append("figure", name);
  }
  if (state.sheet) kept.set("sheet", state.sheet);
  if (state.at !== null) kept.set("at", state.at);
  return kept.toString();
}

function begin() {
  const data = JSON.parse(byId("data").textContent);
  const state = readState(data);
  let pending = null;
  const keep = () => {
    clearTimeout(pending);
    pending = setTimeout(() => {
      pending = null;
      try {
        history.replaceState(null, "", `#~${written(state, data)}`);
      } catch { /* some browsers forbid it to files */ }
    }, 150);
  };
  let curves = null;
  let sheets = null;
  const shown = new Shown(data.runs.length, state, () => { curves.changed(); sheets.draw(); });
  curves = new Curves(data, state, shown, keep);
  sheets = new Sheets(data, state, shown, keep);
  for (const cell of document.querySelectorAll("[data-share]")) cell.style.flexGrow = cell.dataset.share;
  copying();
  theme();
  const every = Number(document.body.dataset.every);
  if (every) refreshing(every, sheets);
}

function copying() {
  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        const range = document.createRange();
        range.selectNodeContents(code);
        getSelection().removeAllRanges();
        getSelection().addRange(range);
        button.textContent = "Selected: Ctrl-C";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    });
  }
}

/** Storage of the browser, which it may forbid to a file. */
const memory = {
  get(name) { try { return sessionStorage.getItem(name); } catch { return null; } },
  set(name, value) { try { sessionStorage.setItem(name, value); } catch { /* as it is */ } },
};

function theme() {
  const order = ["", "dark", "light"];
  const button = byId("theme");
  const show = (which) => {
    if (which) document.documentElement.dataset.theme = which;
    else delete document.documentElement.dataset.theme;
    button.textContent = `Theme: ${which || "as the system"}`;
  };
  let now = order.includes(memory.get("theme")) ? memory.get("theme") : "";
  show(now);
  button.addEventListener("click", () => {
    now = order[(order.indexOf(now) + 1) % order.length];
    memory.set("theme", now);
    show(now);
  });
}

/** Load the page again every so often; not while somebody is at it, nor while it is paused. */
function refreshing(every, sheets) {
  const button = byId("pause");
  let paused = memory.get("paused") === "1";
  let busy = Date.now();
  const show = () => {
    button.setAttribute("aria-pressed", String(paused));
    button.textContent = paused ? "Refresh again" : "Pause refreshing";
  };
  show();
  button.addEventListener("click", () => {
    paused = !paused;
    memory.set("paused", paused ? "1" : "0");
    show();
  });
  for (const kind of ["pointerdown", "pointermove", "keydown", "input"]) {
    addEventListener(kind, () => { busy = Date.now(); }, { passive: true });
  }
  const loaded = Date.now();
  setInterval(() => {
    const calm = Date.now() - busy > 3000 || Date.now() - loaded < 3000;
    const due = Date.now() - loaded >= every * 1000;
    if (due && calm && !paused && !sheets.timer && !byId("dialog").open) location.reload();
  }, 500);
}

begin();
