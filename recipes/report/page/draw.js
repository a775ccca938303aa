// Small things that the other parts use: elements, numbers as text, ticks of an axis.

const SVG = "http://www.w3.org/2000/svg";

/** An element with attributes and children; a child that is no node becomes text. */
function make(tag, attributes, ...children) {
  const made = tag.startsWith("svg:")
    ? document.createElementNS(SVG, tag.slice(4)) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value !== null && value !== undefined && value !== false) {
      made.setAttribute(name, value === true ? "" : value);
    }
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

const byId = (id) => document.getElementById(id);

/** The mark of run k, as the tables have it. */
const swatch = (k) => make("span", { class: `swatch ${marks(k)}`, "aria-hidden": "true" });
const marks = (k) => `c${k % 8} d${Math.min(Math.floor(k / 8), 3)}`;

/** A number in `digits` significant digits, short: 0.0012, 12.3, 4.5k, 2.1e-7. */
function words(value, digits = 4) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e7 || size < 1e-4) return value.toExponential(Math.max(0, digits - 2));
  if (Number.isInteger(value) && size < 1e7) return String(value);
  return size >= 10 ** digits ? String(Math.round(value)) : String(Number(value.toPrecision(digits)));
}

/** A tick as text, in as many digits as tell it from its neighbours. */
function tickWords(value, all) {
  const step = all.length > 1 ? Math.abs(all[1] - all[0]) : 0;
  const digits = step && value ? Math.ceil(Math.log10(Math.abs(value) / step) + 1) : 3;
  return words(value, Math.min(9, Math.max(3, digits)));
}

/** About `count` round numbers between low and high. */
function ticks(low, high, count) {
  const rough = (high - low) / Math.max(1, count);
  if (!(rough > 0) || !Number.isFinite(rough)) return [low];
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((n) => n * unit).find((n) => n >= rough) || 10 * unit;
  const found = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    found.push(Number((k * step).toPrecision(12)));
  }
  return found;
}

/** [least, largest] of the finite values; [0, 1] of none. */
function extent(values) {
  let low = Infinity;
  let high = -Infinity;
  for (const v of values) {
    if (Number.isFinite(v)) [low, high] = [Math.min(low, v), Math.max(high, v)];
  }
  return low <= high ? [low, high] : [0, 1];
}

/** Powers of ten between low and high, with 2 and 5 times them where there are few. */
function logTicks(low, high) {
  const found = [];
  const few = Math.log10(high / low) < 2.5;
  const all = Math.log10(high / low);
  const every = Math.max(1, Math.ceil(all / 6));
  for (let e = Math.floor(Math.log10(low)); e <= Math.ceil(Math.log10(high)); e++) {
    for (const n of few ? [1, 2, 5] : [1]) {
      const value = Number((n * 10 ** e).toPrecision(12));
      if (value >= low && value <= high && (few || e % every === 0)) found.push(value);
    }
  }
  return found.length > 1 ? found : ticks(low, high, 4).filter((v) => v > 0);
}

/** A running mean with weight `w` on what was before, without a bias to its beginning. */
function smoothed(values, w) {
  if (!w) return values;
  let sum = 0;
  let weight = 0;
  return values.map((v) => {
    sum = w * sum + (1 - w) * v;
    weight = w * weight + (1 - w);
    return sum / weight;
  });
}

/** y at `at` of a curve through (xs, ys), xs rising; null outside of it. */
function between(xs, ys, at) {
  if (!xs.length || at < xs[0] || at > xs[xs.length - 1]) return null;
  let low = 0;
  let high = xs.length - 1;
  while (high - low > 1) {
    const middle = (low + high) >> 1;
    if (xs[middle] <= at) low = middle; else high = middle;
  }
  if (xs[high] === xs[low]) return ys[high];
  return ys[low] + ((ys[high] - ys[low]) * (at - xs[low])) / (xs[high] - xs[low]);
}

/** The number of the element of rising `xs` that is nearest to `at`; -1 of none. */
function nearest(xs, at) {
  let best = -1;
  for (let low = 0, high = xs.length - 1; low <= high;) {
    const middle = (low + high) >> 1;
    if (best < 0 || Math.abs(xs[middle] - at) < Math.abs(xs[best] - at)) best = middle;
    if (xs[middle] < at) low = middle + 1; else high = middle - 1;
  }
  return best;
}
