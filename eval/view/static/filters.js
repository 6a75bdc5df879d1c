// The grid's controls: which rows, in which order, drawn how.

import { chosenDatasets } from "./api.js";
import { el, labelled, select } from "./dom.js";
import { go } from "./state.js";

const RANDOM_ROWS = 500;
const EXAMPLES = { where: "view < 4 and not grayscale", sql: "path like '%cat%' and crop_width > 200" };

/** Go to another list: it starts at its first row. */
const other = (changes) => go({ at: "", index: "", ...changes });

/** The controls for a state; `facts` is the overview. */
export function controls(facts, state) {
  const chosen = chosenDatasets(facts, state.from);
  const groups = [...new Set(facts.datasets.map((dataset) => dataset.group).filter(Boolean))].sort();
  const teachers = facts.teachers.map((teacher) => teacher.name);
  return el("form", { class: "controls", "aria-label": "Which rows", onsubmit: (event) => event.preventDefault() },
    condition(state, chosen),
    labelled("Dataset", select([["", "all"], ...facts.datasets.map((one) => one.name)], state.from, (from) => other({ from }), { name: "from" })),
    labelled("Group", select([["", "all"], ...groups], state.group, (group) => other({ group }), { name: "group" })),
    labelled("Status", select(statuses(chosen), state.status, (status) => other({ status, reason: "" }), { name: "status" })),
    state.reason === "" ? null : labelled("Reason", select([["", "any"], state.reason], state.reason, (reason) => other({ reason }), { name: "reason" })),
    labelled("View", el("input", {
      type: "number", min: "0", name: "view", class: "narrow", placeholder: "any", value: state.view,
      onchange: (event) => other({ view: event.target.value }),
    })),
    sorting(facts, chosen, teachers, state),
    random(state),
    drawing(teachers, state));
}

/** Of all arrays of a row, or of one of them. */
function statuses(chosen) {
  const arrays = [...new Set(chosen.flatMap((dataset) => dataset.arrays.map((array) => array.name)))];
  const known = [["", "any"], ["ok", "ok in all arrays"], ["failed", "failed in any"], ["missing", "missing in any"]];
  return [...known, ...arrays.flatMap((name) => ["failed", "missing"].map((status) => [`${name}:${status}`, `${name} ${status}`]))];
}

function condition(state, chosen) {
  let kind = state.sql !== "" ? "sql" : "where";
  const columns = [...new Set(chosen.flatMap((dataset) => dataset.columns))];
  const input = el("input", {
    type: "search", name: "condition", spellcheck: "false", autocomplete: "off", autocapitalize: "off",
    "aria-label": "Filter rows", value: state[kind], placeholder: EXAMPLES[kind],
    title: columns.length ? `columns: ${columns.join(", ")}` : undefined,
  });
  const apply = () => other({ where: "", sql: "", [kind]: input.value.trim() });
  input.addEventListener("keydown", (event) => event.key === "Enter" && apply());
  input.addEventListener("search", () => input.value === "" && current(state) !== "" && apply());
  const choose = select([["where", "condition"], ["sql", "SQL"]], kind, (value) => {
    kind = value;
    input.placeholder = EXAMPLES[kind];
  }, { "aria-label": "Language of the filter" });
  return el("div", { class: "condition", role: "search" }, choose, input,
    el("button", { type: "button", class: "primary", onclick: apply }, "Filter"),
    columns.length ? el("details", { class: "columns" }, el("summary", {}, "columns"), names(columns, input)) : null);
}

const current = (state) => state.where || state.sql;

/** The columns' names; a click puts one into the filter. */
const names = (columns, input) => el("div", { class: "names" }, columns.map((name) =>
  el("button", { type: "button", onclick: () => {
    input.setRangeText(name, input.selectionStart, input.selectionEnd, "end");
    input.focus();
  } }, name)));

function sorting(facts, chosen, teachers, state) {
  const columns = [...new Set(chosen.flatMap((dataset) => dataset.columns))];
  const options = [
    ["", "as stored"],
    ...columns,
    ...teachers.map((name) => [`norm:${name}`, `token norm of ${name}`]),
    ...facts.runs.flatMap((run) => teachers.map((name) => [`error:${run.name}:${name}`, `error of ${run.name} to ${name}`])),
  ];
  const descending = state.order === "desc";
  return el("div", { class: "field" },
    labelled("Sort by", select(options, state.sort, (sort) => other({ sort, order: /^(norm|error):/.test(sort) ? "desc" : "asc" }), { name: "sort" })),
    el("button", {
      type: "button", name: "order", "aria-label": descending ? "descending; change to ascending" : "ascending; change to descending",
      title: descending ? "largest first" : "smallest first", disabled: state.sort === "",
      onclick: () => other({ order: descending ? "asc" : "desc" }),
    }, descending ? "\u2193" : "\u2191"));
}

function random(state) {
  const again = () => other({ sample: String(RANDOM_ROWS), seed: String(Math.floor(Math.random() * 1e6)), sort: "" });
  return el("div", { class: "field" },
    el("button", { type: "button", name: "random", title: `${RANDOM_ROWS} rows of the list, drawn at random`, onclick: again },
      state.sample === "" ? "Random sample" : "Another sample"),
    state.sample === "" ? null : el("button", { type: "button", onclick: () => other({ sample: "", seed: "" }) }, "All rows"));
}

function drawing(teachers, state) {
  const main = () => document.getElementById("main");
  const slider = el("input", {
    type: "range", name: "opacity", min: "10", max: "100", step: "5", value: state.opacity, disabled: state.overlay === "",
    oninput: (event) => main().style.setProperty("--opacity", String(event.target.value / 100)),
    onchange: (event) => go({ opacity: event.target.value }, { replace: true }),
  });
  return el("div", { class: "field" },
    labelled("PCA of", select([["", "none"], ...teachers], state.overlay, (overlay) => go({ overlay }), { name: "overlay" })),
    labelled("opacity", slider),
    labelled("Size", select([["s", "small"], ["m", "medium"], ["l", "large"]], state.size, (size) => go({ size }), { name: "size" })));
}
