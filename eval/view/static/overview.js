// The overview: what the cache holds, how complete it is and what it costs; what failed, with its images.

import { overview } from "./api.js";
import { bytes, count, el, empty, figure, plural } from "./dom.js";
import { link } from "./state.js";
import { gridLink, strip } from "./thumbs.js";

const ASK_AGAIN_MS = 1500;

export function open(main) {
  return {
    title: () => "Overview",
    async update(state, signal) {
      const facts = await overview({ again: true });
      main.replaceChildren(...page(facts));
      if (facts.state === "counting") followCount(main, signal);
    },
    close() {},
  };
}

/** Bytes and failures of a large cache are counted in the background: draw again once they are known. */
async function followCount(main, signal) {
  for (;;) {
    await new Promise((done) => { setTimeout(done, ASK_AGAIN_MS); });
    if (signal.aborted) return;
    const facts = await overview({ again: true }).catch(() => null);
    if (facts === null || signal.aborted) return;
    if (facts.state !== "counting") {
      main.replaceChildren(...page(facts));
      return;
    }
  }
}

function page(facts) {
  const rows = facts.datasets.reduce((sum, dataset) => sum + dataset.rows, 0);
  const stored = facts.datasets.flatMap((dataset) => dataset.arrays).reduce((sum, array) => (sum === null || array.bytes === null ? null : sum + array.bytes), 0);
  return [
    el("h1", { class: "location", title: facts.cache }, shortLocation(facts.cache)),
    el("p", { class: "lead" }, facts.sentence),
    el("div", { class: "cards" },
      card(count(rows), rows === 1 ? "row" : "rows", link({ page: "grid" })),
      card(count(facts.datasets.length), facts.datasets.length === 1 ? "dataset" : "datasets"),
      card(count(facts.teachers.length), facts.teachers.length === 1 ? "teacher" : "teachers", link({ page: "statistics" })),
      card(bytes(stored), "stored")),
    failures(facts),
    el("h2", {}, "Datasets and arrays"),
    facts.datasets.length === 0
      ? empty("This cache has no dataset yet.", "Fill it with: codistill extract run CATALOGUE --cache CACHE")
      : [datasets(facts), terms()],
    el("h2", {}, "Teachers"),
    teachers(facts),
    facts.runs.length === 0 ? null : [el("h2", {}, "Runs"), runs(facts)],
  ].flat(Infinity).filter(Boolean);
}

const shortLocation = (location) => String(location).split("/").filter(Boolean).slice(-2).join("/");

function card(number, what, href) {
  const inside = [el("span", { class: "figure" }, number), el("span", { class: "what" }, what)];
  return href ? el("a", { class: "card", href }, inside) : el("div", { class: "card" }, inside);
}

const numeric = (text, title) => el("th", { class: "n", scope: "col", title }, text);

function datasets(facts) {
  const head = el("thead", {}, el("tr", {},
    el("th", { scope: "col" }, "Array"), el("th", { scope: "col" }, "Complete"), numeric("Stored"),
    numeric("Ratio", "float16 bytes over stored bytes"), numeric("U", "noise over signal of the code"),
    numeric("Slope", "regression of decoded on true values"), el("th", { scope: "col" }, "Identity")));
  const shown = facts.datasets.map((dataset) => el("tbody", {}, heading(dataset), dataset.arrays.map((array) => line(dataset, array))));
  return el("div", { class: "panel scroll", tabindex: "0", role: "region", "aria-label": "Datasets and arrays" },
    el("table", { class: "datasets" }, head, shown));
}

function heading(dataset) {
  const [high, wide] = dataset.pixels ?? [dataset.image_size, dataset.image_size];
  const facts = [dataset.group && `group ${dataset.group}`, dataset.split, plural(dataset.rows, "row"), `${high} \u00d7 ${wide} px`];
  return el("tr", { class: "dataset" }, el("th", { colspan: 7, scope: "rowgroup" },
    el("a", { href: gridLink({ from: dataset.name }) }, dataset.name),
    el("span", {}, facts.filter(Boolean).join(" \u00b7 "))));
}

function line(dataset, array) {
  const name = array.name === "pixels"
    ? el("span", {}, "pixels")
    : el("a", { href: link({ page: "statistics", from: dataset.name, array: array.name }) }, array.name);
  return el("tr", {},
    el("td", {}, name, array.random_weights ? el("span", { class: "badge", title: "for trials: no trained weights" }, "random weights") : null),
    el("td", {}, completeness(dataset, array)),
    el("td", { class: "n" }, bytes(array.bytes)),
    el("td", { class: "n" }, ratio(array)),
    el("td", { class: "n" }, figure(array.noise)),
    el("td", { class: "n" }, array.slope === null ? "\u2014" : array.slope.toFixed(3)),
    el("td", {}, identity(array)));
}

function ratio(array) {
  if (array.ratio !== null) return `${figure(array.ratio)}\u00d7`;
  return array.name === "pixels" ? "\u2014" : el("span", { class: "muted" }, "float16");
}

/** A bar of ok, failed and missing rows with the numbers that matter beside it. */
function completeness(dataset, array) {
  const { ok, failed, missing, unsealed } = array.status;
  if (ok === null) return el("span", { class: "muted" }, "being counted");
  const all = Math.max(1, ok + failed + missing + (unsealed ?? 0));
  const parts = [["ok", ok], ["failed", failed], ["unsealed", unsealed ?? 0], ["missing", missing]].filter(([, number]) => number > 0);
  const said = parts.map(([name, number]) => `${count(number)} ${name}`).join(", ");
  const share = (100 * ok) / all;
  const percent = share === 100 ? "100 %" : `${(Math.floor(share * 10) / 10).toFixed(1)} %`;
  return el("div", { class: "complete" },
    el("div", { class: "bar", role: "img", "aria-label": said, title: said },
      parts.map(([name, number]) => el("span", { class: name, style: { "flex-grow": String(number / all) } }))),
    el("span", { class: "percent" }, percent),
    failed > 0 ? el("a", { class: "bad", href: gridLink({ from: dataset.name, status: `${array.name}:failed` }) }, `${count(failed)} failed`) : null,
    missing > 0 ? el("a", { class: "muted", href: gridLink({ from: dataset.name, status: `${array.name}:missing` }) }, `${count(missing)} missing`) : null,
    unsealed > 0 ? el("span", { class: "muted" }, `${count(unsealed)} not sealed`) : null,
    (array.notes ?? []).map((note) => el("span", { class: "bad" }, note)));
}

function identity(array) {
  if (!array.identity) return "\u2014";
  return el("details", { class: "identity" },
    el("summary", {}, el("code", {}, array.identity)),
    el("pre", { tabindex: "0" }, JSON.stringify(array.identity_full, null, 2)));
}

const terms = () =>
  el("p", { class: "muted small" },
    "Ratio: float16 bytes over stored bytes. U: noise over signal of the code. ",
    "Slope: regression of decoded on true values; 1 is unbiased. Identity: digest of what made the features; open it for all of it.");

function failures(facts) {
  if (facts.failures.length === 0) return null;
  const one = (failed) => el("div", { class: "panel failure" },
    el("p", {}, el("b", {}, failed.reason), " ",
      el("span", { class: "muted" }, `${failed.about ? "about " : ""}${plural(failed.count, "row")} of ${failed.dataset}, ${failed.array}`),
      failed.example && failed.example !== failed.reason ? el("span", { class: "example" }, `for example: ${failed.example}`) : null),
    strip(failed.rows.map((row) => ({ dataset: failed.dataset, row })), failed.array !== "pixels"),
    el("a", { class: "small", href: gridLink({ from: failed.dataset, status: `${failed.array}:failed`, reason: failed.reason }) }, "show them in the grid"));
  return [el("h2", {}, "Failures by reason"), facts.failures.map(one)];
}

function teachers(facts) {
  if (facts.teachers.length === 0) return empty("No teacher has features here yet.", "Name one in the catalogue and run: codistill extract run");
  const row = (teacher) => el("tr", {},
    el("td", {}, el("a", { href: link({ page: "statistics", from: "", array: teacher.name }) }, teacher.name)),
    el("td", { class: "n" }, `${teacher.patch_grid[0]} \u00d7 ${teacher.patch_grid[1]}`),
    el("td", { class: "n" }, count(teacher.channels)),
    el("td", { class: "n" }, count(teacher.prefix_tokens)));
  return el("div", { class: "panel scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Teacher"), numeric("Patch grid"), numeric("Channels"), numeric("Prefix tokens"))),
    el("tbody", {}, facts.teachers.map(row))));
}

function runs(facts) {
  const row = (run) => el("tr", {}, el("td", {}, run.name), el("td", {}, el("code", {}, run.path)),
    el("td", {}, facts.teachers.map((teacher) =>
      el("a", { class: "spaced", href: gridLink({ sort: `error:${run.name}:${teacher.name}`, order: "desc" }) }, teacher.name))));
  return el("div", { class: "panel scroll" }, el("table", {},
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "Run"), el("th", { scope: "col" }, "Path"), el("th", { scope: "col" }, "Rows where it is worst at"))),
    el("tbody", {}, facts.runs.map(row))));
}
