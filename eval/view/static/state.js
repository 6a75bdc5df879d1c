// The state of the page is its URL's query, and nothing else: a copied address shows the same view.

// Every key with its default, in the order in which they stand in the address.
const DEFAULTS = {
  page: "overview", // overview | grid | row | find | statistics
  // Which rows the grid lists, and `from` also of which dataset the statistics are.
  from: "",
  group: "",
  status: "", // ok | failed | missing, in all or any arrays; or of one, as "dinov2:failed"
  reason: "", // kind of reason why a row failed, in any array or in that of status
  view: "",
  where: "",
  sql: "",
  sort: "",
  order: "asc",
  sample: "",
  seed: "",
  at: "", // the first visible row of the grid
  overlay: "", // the teacher whose maps lie on the grid's thumbnails
  // The open row.
  dataset: "",
  row: "",
  index: "", // its place in the grid's list, along which previous and next then step
  array: "", // the chosen teacher
  mode: "pca", // pca | norm | outlier | error | cosine
  basis: "row", // row | shown | dataset
  run: "",
  patches: "", // numbers of patches, as "5,6,7"
  source: "", // the array in whose grid `patches` count
  of: "", // the row beside that they are of, as "dataset:row"; empty: the open row
  beside: "", // rows put beside, as "dataset:row,dataset:row"
  range: "full", // of cosines: full, 0 to 1 | own, of each map
  // Searching.
  what: "patches", // patches | rows
  scope: "sample", // sample | dataset | all
  k: "60",
  // Drawing.
  opacity: "70", // of the grid's overlay, percent
  over: "100", // opacity of a row's maps on its pixels, percent
  draw: "smooth", // smooth | nearest
  size: "m", // s | m | l
  theme: "", // light | dark; empty: as the system has it
};

// Not state, but part of every address: whoever opens a link to a server that asks for it needs the token.
const KEPT = ["token"];
const listeners = [];

/** The state of an address, every key as text. */
export function parse(search) {
  const given = new URLSearchParams(search);
  const state = {};
  for (const [key, value] of Object.entries(DEFAULTS)) state[key] = given.get(key) ?? value;
  return state;
}

let fixed = null;

/** Take a state that does not come from the address: an exported file has its own. */
export function fix(search) {
  fixed = search;
}

export const search = () => fixed ?? location.search;
export const current = () => parse(search());

/** The address of a state: what is given, put on top of `base`; what has its default is left out. */
export function link(changes, base = current()) {
  const query = new URLSearchParams();
  const given = new URLSearchParams(search());
  for (const key of KEPT) if (given.has(key)) query.set(key, given.get(key));
  const state = { ...base, ...changes };
  for (const [key, value] of Object.entries(DEFAULTS)) {
    if (String(state[key]) !== value) query.set(key, String(state[key]));
  }
  const text = query.toString().replaceAll("%2C", ",").replaceAll("%3A", ":").replaceAll("%2F", "/");
  return text === "" ? "?" : `?${text}`;
}

/** Go to a state; `replace` keeps it out of the history (scrolling, sliders). */
export function go(changes, { replace = false } = {}) {
  navigate(link(changes), { replace });
}

export function navigate(address, { replace = false, quiet = false } = {}) {
  if (fixed !== null) fixed = address;
  else if (address !== (location.search || "?")) {
    history[replace ? "replaceState" : "pushState"](null, "", address === "?" ? location.pathname : address);
  }
  if (!quiet) listeners.forEach((listener) => listener(current()));
}

/** Change the state of what is not on this page, without drawing it again; the links on it carry the change. */
export function setQuietly(changes) {
  navigate(link(changes), { replace: true, quiet: true });
  for (const anchor of document.querySelectorAll("a[href^='?']")) {
    anchor.setAttribute("href", link({ ...parse(anchor.getAttribute("href")), ...changes }));
  }
}

/** Call `listener` with each new state, also on the browser's back and forward. */
export function listen(listener) {
  listeners.push(listener);
  if (listeners.length === 1) addEventListener("popstate", () => listeners.forEach((each) => each(current())));
}

/** A link to open a row; from a list with its place in it. */
export const rowLink = (dataset, row, index = "") =>
  link({ page: "row", dataset, row, index, ...UNCHOSEN, mode: keptMode() });

/** No patch chosen. */
export const UNCHOSEN = { patches: "", source: "", of: "" };

/** A row opens with no patch chosen, so not in the mode that draws their cosines. */
export const keptMode = () => (current().mode === "cosine" ? DEFAULTS.mode : current().mode);

export const numbers = (text) => (text === "" ? [] : text.split(",").map(Number).filter(Number.isInteger));

/** "a:1,b:2" as [{dataset, row}]; names may hold a colon, numbers do not. */
export function places(text) {
  return text.split(",").filter((one) => /:\d+$/.test(one)).map((one) => {
    const colon = one.lastIndexOf(":");
    return { dataset: one.slice(0, colon), row: Number(one.slice(colon + 1)) };
  });
}

export const place = ({ dataset, row }) => `${dataset}:${row}`;

/** Put a row beside the open one, or take it away; eight at most. */
export function toggledBeside(dataset, row, state = current()) {
  const others = places(state.beside).filter((one) => one.dataset !== dataset || one.row !== row);
  const had = others.length < places(state.beside).length;
  return (had ? others : [...others, { dataset, row }].slice(-8)).map(place).join(",");
}
