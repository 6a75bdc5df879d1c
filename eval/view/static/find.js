// Searching: the patches or rows of the cache that are most like the chosen patches, in the eyes of one teacher.

import { ask, overview } from "./api.js";
import { count, el, empty, labelled, plural, refill, segmented, select, svg } from "./dom.js";
import { pictures } from "./grid.js";
import { outline, selectionOn } from "./maps.js";
import { go, link, numbers, places, rowLink } from "./state.js";
import { cell, pixels } from "./thumbs.js";

const ASK_AGAIN_MS = 400;

export function open(main) {
  const head = el("div");
  const results = el("div");
  main.replaceChildren(el("h1", {}, "Find"), head, results);

  async function update(state, signal) {
    await overview();
    const query = queryOf(state);
    if (query === null) return nothing("No row is open.", "Open a row, click a patch, and choose \u201cFind patches like it\u201d.");
    const answer = await ask("api/row", query, { signal });
    const names = answer.arrays.map((array) => array.name);
    const array = names.includes(state.array) ? state.array : names.includes(state.source) ? state.source : names[0];
    const grid = gridOf(answer, array);
    const own = gridOf(answer, state.source);
    const patches = grid && own ? selectionOn(numbers(state.patches), own, grid) : [];
    refill(head, queryPanel(state, answer, names, array, grid, patches));
    if (array === undefined) return results.replaceChildren(empty("This row has no tokens.", "Choose another row."));
    if (state.what === "patches" && patches.length === 0) {
      return results.replaceChildren(empty("No patch is chosen.", "Open the row and click a patch, or search for rows."));
    }
    const question = { ...query, array, patches: patches.join(","), what: state.what, scope: state.scope, k: state.k };
    const found = await search(question, results, signal);
    const grids = await gridsOf(found, array, signal);
    results.replaceChildren(...shown(found, state, array, grids));
    await pictures(results);
  }

  function nothing(title, advice) {
    head.replaceChildren(empty(title, advice), el("a", { class: "button", href: link({ page: "grid" }) }, "Go to the rows"));
    results.replaceChildren();
  }

  return { title: () => "Find", update, close() {} };
}

/** The row that the chosen patches are of. */
function queryOf(state) {
  const of = places(state.of)[0];
  if (of) return of;
  return state.dataset === "" || state.row === "" ? null : { dataset: state.dataset, row: Number(state.row) };
}

const gridOf = (answer, array) => answer.arrays.find((one) => one.name === array)?.grid ?? null;

/** A patch or more outlined on a thumbnail. */
const mark = (patches, [h, w]) =>
  svg("svg", { class: "marks", viewBox: `0 0 ${w} ${h}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("path", { class: "chosen", d: outline(patches, [h, w]) }));

function queryPanel(state, { dataset, row, status }, names, array, grid, patches) {
  const what = segmented("What to find", [{ value: "patches", text: "Patches" }, { value: "rows", text: "Rows" }], state.what, (value) => go({ what: value }));
  return el("div", { class: "query" },
    el("a", { class: "thumb", href: link({ page: "row" }), title: "back to the row" }, pixels(dataset, row, 320, (status.pixels ?? "ok") === "ok"), patches.length && grid ? mark(patches, grid) : null),
    el("form", { class: "controls needs-cache", "aria-label": "What to find", onsubmit: (event) => event.preventDefault() },
      el("p", {}, "Most like ", el("b", {}, patches.length ? plural(patches.length, "patch").replace("patchs", "patches") : "the whole view"),
        ` of ${dataset} ${count(row)}`),
      what,
      labelled("In the eyes of", select(names, array ?? "", (value) => go({ array: value }), { name: "array" })),
      labelled("Among", select([["sample", "a sample of the cache"], ["dataset", `all of ${dataset}`], ["all", "the whole cache"]], state.scope, (scope) => go({ scope }), { name: "scope" })),
      labelled("Show", select(["20", "60", "120", "240"], state.k, (k) => go({ k }), { name: "k" }))));
}

/** Ask until the index is built; how far it is stands in `results` meanwhile. */
async function search(question, results, signal) {
  for (;;) {
    const answer = await ask("api/find", question, { signal, remember: false });
    if (answer.state === "ready") return answer;
    if (answer.error) throw new Error(answer.error);
    results.replaceChildren(building(answer));
    await new Promise((done, stop) => {
      const timer = setTimeout(done, ASK_AGAIN_MS);
      signal.addEventListener("abort", () => { clearTimeout(timer); stop(signal.reason); }, { once: true });
    });
  }
}

function building(answer) {
  const percent = Math.round(100 * (answer.progress ?? 0));
  return el("div", { class: "panel building", role: "status" },
    el("p", {}, `The index is being built, once: ${percent} %.`, answer.note ? ` ${answer.note}` : ""),
    el("progress", { max: 100, value: percent, "aria-label": "index" }));
}

/** The grid of the array in each dataset among the results. */
async function gridsOf(found, array, signal) {
  const first = new Map(found.results.map((result) => [result.dataset, result.row]));
  const pairs = await Promise.all([...first].map(async ([dataset, row]) => [dataset, gridOf(await ask("api/row", { dataset, row }, { signal }), array)]));
  return new Map(pairs);
}

function shown(found, state, array, grids) {
  if (found.results.length === 0) return [empty("Nothing was found.", "Search in more: the dataset, or the whole cache.")];
  const note = found.note ? `${found.note}. ` : "";
  const cells = found.results.map((result) => {
    const { dataset, row, patch, cosine } = result;
    const grid = grids.get(dataset);
    const marked = patch !== null && patch !== undefined && grid;
    const href = marked
      ? link({ page: "row", dataset, row, index: "", patches: String(patch), source: array, array, of: "", mode: "cosine" })
      : rowLink(dataset, row);
    return cell({ dataset, row, size: state.size, upon: marked ? [mark([patch], grid)] : [], href,
      lines: [`${dataset} ${count(row)}`, `cosine ${cosine.toFixed(3)}`] });
  });
  const kinds = state.what === "rows" ? "rows" : "patches";
  return [
    el("p", { class: "status", role: "status" }, `${note}${found.results.length} ${kinds}, the most alike first. `,
      places(state.beside).length ? el("a", { href: link({ page: "row" }) }, `Show the ${places(state.beside).length} put beside`) : null),
    el("div", { class: "cells", role: "list", data: { size: state.size } }, cells),
  ];
}
