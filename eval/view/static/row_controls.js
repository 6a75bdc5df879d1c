// The bars above the maps of a row: where one is and what is next; how the maps are drawn.

import { el, labelled, segmented, select } from "./dom.js";
import { UNCHOSEN, go, keptMode, link, toggledBeside } from "./state.js";

export const MODES = [
  { value: "pca", text: "PCA", title: "the first three principal components as colours" },
  { value: "norm", text: "Norms", title: "the length of each token" },
  { value: "outlier", text: "Outliers", title: "tokens whose norm is unlike the dataset's" },
  { value: "error", text: "Error", title: "of a student against each teacher" },
  { value: "cosine", text: "Cosine", title: "to the chosen patches" },
];

/** The modes that can be shown now: errors need a run, cosines a chosen patch. */
export const possibleModes = (facts, state) =>
  MODES.map((mode) => ({
    ...mode,
    disabled: (mode.value === "error" && facts.runs.length === 0) || (mode.value === "cosine" && state.patches === ""),
    title: mode.value === "error" && facts.runs.length === 0 ? "start codistill view with --run RUN to see this" : mode.title,
  }));

/** How the maps are drawn. */
export function controls(facts, state) {
  const mode = segmented("What the maps show", possibleModes(facts, state), state.mode, (value) => go({ mode: value }));
  return el("form", { class: "controls row", "aria-label": "How maps are drawn", onsubmit: (event) => event.preventDefault() },
    mode,
    state.mode === "pca" ? labelled("Basis of", select([["row", "this row"], ["shown", "the shown rows"], ["dataset", "the dataset"]], state.basis, (basis) => go({ basis }), { name: "basis" })) : null,
    state.mode === "error" ? labelled("Student", select(facts.runs.map((run) => run.name), state.run || (facts.runs[0]?.name ?? ""), (run) => go({ run }), { name: "run" })) : null,
    state.mode === "cosine" ? labelled("Scale", select([["full", "0 to 1"], ["own", "each map's own"]], state.range, (range) => go({ range }), { name: "range" })) : null,
    segmented("Drawing", [{ value: "smooth", text: "Smooth" }, { value: "nearest", text: "Nearest" }], state.draw, (draw) => go({ draw })),
    labelled("Over pixels", opacity(state)),
    labelled("Size", select([["s", "small"], ["m", "medium"], ["l", "large"]], state.size, (size) => go({ size }), { name: "size" })));
}

const opacity = (state) => el("input", {
  type: "range", name: "over", min: "0", max: "100", step: "5", value: state.over, title: "opacity of the maps on the stored pixels",
  oninput: (event) => document.getElementById("main").style.setProperty("--opacity", String(event.target.value / 100)),
  onchange: (event) => go({ over: event.target.value }, { replace: true }),
});

/** What can be done with the chosen patches. */
export function selection(state, count) {
  if (count === 0) return el("p", { class: "hint" }, "Click or drag over patches of any picture to see what each teacher finds alike. Shift adds.");
  const many = `${count} patch${count === 1 ? "" : "es"} of ${state.source}`;
  const find = (what) => link({ page: "find", what });
  return el("p", { class: "hint" }, el("b", {}, many), " ",
    el("a", { class: "button", href: find("patches") }, "Find patches like it"),
    el("a", { class: "button", href: find("rows") }, "Find rows like it"),
    el("button", { type: "button", onclick: () => go({ ...UNCHOSEN, mode: keptMode() }) }, "Clear"));
}

/** A form that puts another row beside. */
export function besideForm(state) {
  const input = el("input", { type: "text", name: "beside", class: "narrow", placeholder: "row", autocomplete: "off", spellcheck: "false", title: "a row number, or DATASET:ROW" });
  const add = (event) => {
    event.preventDefault();
    const text = input.value.trim();
    const at = text.lastIndexOf(":");
    const [dataset, row] = at < 0 ? [state.dataset, text] : [text.slice(0, at), text.slice(at + 1)];
    if (!/^\d+$/.test(row)) {
      input.setCustomValidity("a row number, or DATASET:ROW");
      input.reportValidity();
      return;
    }
    go({ beside: toggledBeside(dataset, Number(row)) });
  };
  input.addEventListener("input", () => input.setCustomValidity(""));
  return el("form", { class: "field needs-cache", onsubmit: add }, labelled("Put beside", input), el("button", {}, "Add"));
}
