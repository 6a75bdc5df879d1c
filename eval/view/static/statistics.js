// What a teacher's tokens are like: spread of channels, dead and outlying ones, norms, spectrum, drift between datasets.

import { ask, overview } from "./api.js";
import { bars, chart, dots, line, named } from "./charts.js";
import { count, el, empty, figure, labelled, plural, refill, select } from "./dom.js";
import { go } from "./state.js";

const ASK_AGAIN_MS = 400;

export function open(main) {
  const head = el("div");
  const body = el("div");
  main.replaceChildren(el("h1", {}, "Statistics"), head, body);
  return {
    title: () => "Statistics",
    async update(state, signal) {
      const facts = await overview();
      const names = facts.teachers.map((teacher) => teacher.name);
      const teacher = names.includes(state.array) ? state.array : names[0];
      if (teacher === undefined) return body.replaceChildren(empty("No teacher has features here yet.", "Extract some first."));
      const datasets = facts.datasets.filter((dataset) => dataset.arrays.some((array) => array.name === teacher)).map((dataset) => dataset.name);
      const dataset = datasets.includes(state.from) ? state.from : datasets[0];
      refill(head, choose(names, teacher, datasets, dataset));
      const known = await ask("api/statistics", { dataset, teacher }, { signal, remember: false });
      const answer = await whole(known, { dataset, teacher }, body, signal);
      refill(body, page(answer, teacher, dataset));
    },
    keys(event) {
      if (event.key.toLowerCase() !== "t") return false;
      const control = main.querySelector("select[name=array]");
      const step = event.key === "T" ? -1 : 1;
      if (control) go({ array: control.options[(control.selectedIndex + step + control.length) % control.length].value });
      return true;
    },
    close() {},
  };
}

/** Norms and spectrum may still be computed in the background: what is known is drawn, and asked for again. */
async function whole(first, question, body, signal) {
  let answer = first;
  while (answer.state === "building") {
    const parts = answer.std ? page(answer, question.teacher, question.dataset) : [];
    const percent = Math.round(100 * (answer.progress ?? 0));
    refill(body, el("p", { class: "status", role: "status" }, `Reading a sample of rows: ${percent} %.`), parts);
    await new Promise((done, stop) => {
      const timer = setTimeout(done, ASK_AGAIN_MS);
      signal.addEventListener("abort", () => { clearTimeout(timer); stop(signal.reason); }, { once: true });
    });
    answer = await ask("api/statistics", question, { signal, remember: false });
  }
  return answer;
}

const choose = (names, teacher, datasets, dataset) =>
  el("form", { class: "controls needs-cache", "aria-label": "Of which teacher", onsubmit: (event) => event.preventDefault() },
    labelled("Teacher", select(names, teacher, (array) => go({ array }), { name: "array" })),
    labelled("Dataset", select(datasets, dataset, (from) => go({ from }), { name: "from" })));

function page(answer, teacher, dataset) {
  const charts = [
    answer.std && spread(answer),
    answer.norms && answer.norms.counts?.length ? norms(answer.norms) : null,
    answer.spectrum?.length ? spectrum(answer.spectrum) : null,
    answer.drift?.length ? drift(answer.drift, dataset) : null,
  ];
  return [
    el("p", { class: "lead" }, summary(answer, teacher, dataset)),
    el("p", { class: "muted small" }, source(answer)),
    el("div", { class: "charts" }, charts.filter(Boolean)),
    channels("Dead channels", answer.dead ?? [], "They never change: a target with nothing to learn."),
    channels("Outlier channels", answer.outliers ?? [], "Their spread is far beyond the others': they rule a loss that is not standardised."),
  ].filter(Boolean);
}

/** What the numbers are of. */
function source(answer) {
  const sample = answer.sample ? `; norms and spectrum of ${count(answer.sample.patches)} patches of ${plural(answer.sample.rows, "row")}` : "";
  return `Channels: ${answer.tokens}${sample}.`;
}

function summary(answer, teacher, dataset) {
  const some = (list, noun) => (list?.length ? plural(list.length, noun) : `no ${noun}s`);
  return `${teacher} in ${dataset}: ${plural(answer.std?.length ?? 0, "channel")}, ${some(answer.dead, "dead channel")}, ${some(answer.outliers, "outlier channel")}.`;
}

function spread(answer) {
  const [dead, outliers] = [new Set(answer.dead), new Set(answer.outliers)];
  const positive = answer.std.filter((value) => value > 0);
  const [low, high] = [Math.min(...positive), Math.max(...positive)];
  const log = high > 20 * low;
  const kind = (channel) => (outliers.has(channel) ? "outlier" : dead.has(channel) ? "dead" : "");
  const shown = answer.std.map((value, channel) => [channel, log && value <= 0 ? low : value, kind(channel), `channel ${channel}: std ${figure(value)}, mean ${figure(answer.mean?.[channel])}`]);
  const keys = [["", "channel"], ["outlier", "outlier"], ["dead", "dead"]].filter(([one]) => shown.some((point) => point[2] === one));
  const key = keys.length < 2 ? null : el("p", { class: "key" }, keys.map(([one, text]) => [el("i", { class: `dot ${one}` }), text]));
  return chart({
    title: "Spread of each channel",
    x: { label: "channel", domain: [0, Math.max(1, answer.std.length - 1)] },
    y: { label: log ? "standard deviation (log)" : "standard deviation", domain: log ? [low * 0.9, high * 1.1] : [0, high * 1.05 || 1], log },
    marks: dots(shown.sort((a, b) => a[2].length - b[2].length)),
    note: key,
  });
}

function norms({ edges, counts }) {
  const all = counts.reduce((sum, one) => sum + one, 0) || 1;
  return chart({
    title: "Norms of patch tokens",
    x: { label: "norm", domain: [edges[0], edges.at(-1)] },
    y: { label: "tokens", domain: [0, Math.max(...counts) * 1.05 || 1] },
    marks: bars(edges, counts, (at) => `${figure(edges[at])} to ${figure(edges[at + 1])}: ${count(counts[at])} tokens, ${figure((100 * counts[at]) / all)} %`),
  });
}

function spectrum(fractions) {
  const shown = fractions.map((value, at) => [at + 1, value]).filter(([, value]) => value > 0);
  const half = shares(fractions);
  return chart({
    title: "Spectrum",
    x: { label: "principal component (log)", domain: [1, Math.max(2, fractions.length)], log: true },
    y: { label: "share of variance (log)", domain: [Math.min(...shown.map(([, value]) => value)) * 0.8, shown[0][1] * 1.3], log: true },
    marks: line(shown),
    note: el("p", { class: "key" }, half),
  });
}

/** How many components hold half and nine tenths of the variance. */
function shares(fractions) {
  const needed = (share) => {
    let sum = 0;
    const at = fractions.findIndex((value) => (sum += value) >= share);
    return at < 0 ? `more than ${fractions.length}` : String(at + 1);
  };
  return `50 % of the variance in ${needed(0.5)} components, 90 % in ${needed(0.9)}`;
}

const drift = (distances, dataset) => named(`Distance of other datasets from ${dataset}`,
  distances.filter((one) => Number.isFinite(one.distance)).map((one) => [one.dataset, one.distance]),
  { note: el("p", { class: "key" }, `of means and spreads, root mean square over channels, in standard deviations of ${dataset}`) });

function channels(title, list, meaning) {
  if (list.length === 0) return null;
  return el("div", { class: "channels" }, el("h2", {}, title), el("p", { class: "muted" }, meaning),
    el("p", { class: "chips" }, list.slice(0, 200).map((channel) => el("code", {}, String(channel))), list.length > 200 ? `and ${count(list.length - 200)} more` : null));
}
