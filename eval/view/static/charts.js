// Small charts as SVG, with axes that have names and round numbers.

import { el, figure, svg } from "./dom.js";

const [WIDTH, HEIGHT] = [560, 230];
const MARGIN = { left: 58, right: 12, top: 10, bottom: 40 };

/** Round numbers that cover a range, about `wanted` of them. */
function ticks(low, high, wanted = 5) {
  if (!(high > low)) return [low];
  const rough = (high - low) / wanted;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((one) => one >= rough);
  const found = [];
  for (let at = Math.ceil(low / step); at * step <= high + step * 1e-9; at += 1) found.push(Number((at * step).toPrecision(12)));
  return found;
}

/** Powers of ten that cover a range; every so many of them if they are many. */
function powers(low, high) {
  const [from, to] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
  const every = Math.max(1, Math.ceil((to - from) / 5));
  const found = [];
  for (let at = from; at <= to; at += every) found.push(10 ** at);
  if (found.length > 1) return found;
  const digits = [from - 1, from, from + 1].flatMap((at) => [1, 2, 5].map((digit) => digit * 10 ** at));
  return digits.filter((one) => one >= low && one <= high);
}

function scale([low, high], [start, end], log) {
  const of = log ? Math.log10 : (value) => value;
  const span = of(high) - of(low) || 1;
  return (value) => start + ((of(value) - of(low)) / span) * (end - start);
}

/**
 * A chart with axes; `marks(x, y, floor)` returns the SVG elements in it, given the two scales.
 *
 * `x` and `y` are {label, domain: [low, high], log}.
 */
export function chart({ title, x, y, marks, note = null }) {
  const across = scale(x.domain, [MARGIN.left, WIDTH - MARGIN.right], x.log);
  const up = scale(y.domain, [HEIGHT - MARGIN.bottom, MARGIN.top], y.log);
  const floor = HEIGHT - MARGIN.bottom;
  const grid = (y.log ? powers(...y.domain) : ticks(...y.domain, 4)).map((value) => [
    svg("line", { class: "grid", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: up(value), y2: up(value) }),
    svg("text", { x: MARGIN.left - 7, y: up(value) + 4, "text-anchor": "end" }, figure(value)),
  ]);
  const below = (x.log ? powers(...x.domain) : ticks(...x.domain, 6)).map((value) => [
    svg("line", { class: "tick", x1: across(value), x2: across(value), y1: floor, y2: floor + 4 }),
    svg("text", { x: across(value), y: floor + 17, "text-anchor": "middle" }, figure(value)),
  ]);
  const drawing = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${title}: ${y.label} over ${x.label}` },
    grid, below, svg("line", { class: "axis", x1: MARGIN.left, x2: WIDTH - MARGIN.right, y1: floor, y2: floor }),
    marks(across, up, floor),
    svg("text", { class: "name", x: (MARGIN.left + WIDTH - MARGIN.right) / 2, y: HEIGHT - 5, "text-anchor": "middle" }, x.label),
    svg("text", { class: "name", x: 13, y: (MARGIN.top + floor) / 2, "text-anchor": "middle", transform: `rotate(-90 13 ${(MARGIN.top + floor) / 2})` }, y.label));
  return el("figure", { class: "chart panel" }, el("figcaption", {}, title), drawing, note);
}

/** Bars between edges. */
export const bars = (edges, counts, told) => (x, y, floor) => counts.map((value, at) =>
  svg("rect", { class: "filled", x: x(edges[at]) + 0.5, width: Math.max(0.6, x(edges[at + 1]) - x(edges[at]) - 1),
    y: Math.min(floor, y(Math.max(value, 0))), height: Math.max(0, floor - y(Math.max(value, 0))) }, svg("title", {}, told(at))));

/** A line through points, those that are no number left out. */
export const line = (points) => (x, y) => {
  const known = points.filter(([, value]) => Number.isFinite(value));
  return svg("path", { class: "line", d: known.map(([at, value], number) => `${number ? "L" : "M"}${x(at).toFixed(1)} ${y(value).toFixed(1)}`).join("") });
};

/** One dot a point, with a class and what it says when pointed at. */
export const dots = (points) => (x, y) => points.filter(([, value]) => Number.isFinite(value)).map(([at, value, kind, text]) =>
  svg("circle", { class: `dot ${kind}`, cx: x(at).toFixed(1), cy: y(value).toFixed(1), r: kind === "" ? 1.6 : 3 }, svg("title", {}, text)));

/** Names with a bar and its number each: for a few values that have no order on an axis. */
export function named(title, entries, { unit = "", note = null } = {}) {
  const most = Math.max(...entries.map(([, value]) => value), 1e-12);
  return el("figure", { class: "chart panel" }, el("figcaption", {}, title),
    el("div", { class: "named", role: "list" }, entries.map(([name, value]) => el("div", { role: "listitem" },
      el("span", { class: "key" }, name), el("span", { class: "track" }, el("i", { style: { width: `${(100 * value) / most}%` } })), el("span", { class: "n" }, `${figure(value)}${unit}`)))), note);
}
