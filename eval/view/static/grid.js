// The grid: thumbnails of the rows that match, in any order, however many there are.

import { ask, overview } from "./api.js";
import { el, empty, failure, figure, plural, refill } from "./dom.js";
import { controls } from "./filters.js";
import { Scroller } from "./scroller.js";
import { current, go } from "./state.js";
import { SIZES, captionOf, cell, overlay } from "./thumbs.js";

const PAGE_ROWS = 120;
const PAGES_KEPT = 40;
const ASK_AGAIN_MS = 500;
const GROWN = 4; // times as many rows as are listed make another list
const MOST_MEASURED = 100000;
const LIST = ["from", "group", "status", "reason", "view", "where", "sql", "sort", "order", "sample", "seed"];

/** The question for some rows of a state's list. */
export const listQuestion = (state, offset, limit) => ({
  dataset: state.from, where: state.where, sql: state.sql, group: state.group, status: state.status,
  reason: state.reason, view: state.view,
  sort: state.sort, order: state.sort === "" ? "" : state.order, sample: state.sample, seed: state.seed, offset, limit,
});

/** The rows of a list, page by page: those that are seen are fetched, and as many kept as memory should hold. */
class Rows {
  constructor(state, arrived) {
    this.state = state;
    this.arrived = arrived;
    this.pages = new Map(); // number -> rows, or null while they are under way
    this.stop = new AbortController();
  }

  at(index) {
    return this.pages.get(Math.floor(index / PAGE_ROWS))?.[index % PAGE_ROWS];
  }

  async fetch(page) {
    this.pages.set(page, null);
    try {
      const answer = await ask("api/rows", listQuestion(this.state, page * PAGE_ROWS, PAGE_ROWS), { signal: this.stop.signal, remember: false });
      this.pages.set(page, answer.rows);
      return answer;
    } catch (error) {
      this.pages.delete(page);
      throw error;
    }
  }

  /** Fetch the pages of a range that are missing, and forget those far from it. */
  async need(from, to) {
    const [first, last] = [Math.floor(from / PAGE_ROWS), Math.floor(Math.max(from, to - 1) / PAGE_ROWS)];
    for (const page of [...this.pages.keys()]) {
      if (this.pages.size > PAGES_KEPT && this.pages.get(page) !== null && (page < first - 2 || page > last + 2)) this.pages.delete(page);
    }
    const missing = [];
    for (let page = first; page <= last; page += 1) if (!this.pages.has(page)) missing.push(page);
    await Promise.all(missing.map(async (page) => {
      await this.fetch(page);
      this.arrived(page * PAGE_ROWS, (page + 1) * PAGE_ROWS);
    }));
  }
}

export function open(main) {
  let [facts, rows, listed, drawn, wanted, timer] = [null, null, null, null, null, null];
  const holder = el("div", { class: "holder" });
  const status = el("p", { class: "status", role: "status" });
  const nothing = el("div");
  main.classList.add("fills");
  main.replaceChildren(el("h1", { class: "hidden" }, "Rows"), holder, status, nothing);

  const scroller = new Scroller({
    label: "Rows; scroll for more",
    cell: (index) => oneCell(index, rows.at(index)),
    drop: (element) => element.querySelectorAll("img").forEach((image) => { image.src = "data:,"; }), // ends its loading
    seen: (from, to) => {
      wanted = [from, to];
      clearTimeout(timer);
      timer = setTimeout(fetchWanted, 30); // a bar that is dragged passes thousands of rows nobody looks at
    },
    settled: (first) => current().page === "grid" && go({ at: first === 0 ? "" : String(first) }, { replace: true }),
  });
  main.append(scroller.box);

  async function fetchWanted() {
    const list = rows;
    try {
      await list.need(...wanted);
    } catch (error) {
      if (error.name !== "AbortError" && list === rows) nothing.replaceChildren(failure(error));
    }
  }

  const arrived = (from, to) => {
    for (const index of [...scroller.cells.keys()]) if (index >= from && index < to) scroller.renew(index);
  };

  /** Another list: its first rows tell how many there are. */
  async function list(state) {
    rows?.stop.abort();
    rows = new Rows(state, arrived);
    scroller.set({ total: 0, width: 1, height: 1 });
    nothing.replaceChildren();
    status.textContent = "Looking\u2026";
    const first = Math.floor(Number(state.at || 0) / PAGE_ROWS);
    const answer = await rows.fetch(first);
    const total = answer.total ?? first * PAGE_ROWS + answer.rows.length;
    status.replaceChildren(sentence(state, total, answer), " ", measureAll(state, answer));
    if (answer.state === "building") measuring(state, rows, total);
    else if (total === 0) {
      const [what, todo] = answer.of > 0
        ? ["No row has a value in this order.", "Choose another order, dataset or array."]
        : ["No row matches.", "Take a condition away, or choose another dataset or status."];
      nothing.replaceChildren(empty(what, todo));
    }
    return total;
  }

  /** An order by what must be measured grows in the background: tell how far it is, and list again as it grows. */
  async function measuring(state, list, shown) {
    try {
      for (;;) {
        await new Promise((done) => { setTimeout(done, ASK_AGAIN_MS); });
        const answer = await ask("api/rows", listQuestion(state, 0, 1), { signal: list.stop.signal, remember: false });
        if (list !== rows) return;
        status.textContent = sentence(state, answer.total, answer);
        if (answer.state !== "building" || answer.total >= Math.max(GROWN * shown, PAGE_ROWS / 4)) break;
      }
      [listed, drawn] = [null, null];
      await update(current());
    } catch (error) {
      if (error.name !== "AbortError" && list === rows) nothing.replaceChildren(failure(error));
    }
  }

  async function update(state) {
    facts = await overview();
    refill(holder, controls(facts, state));
    main.style.setProperty("--opacity", String(state.opacity / 100));
    const key = JSON.stringify(LIST.map((name) => state[name]));
    const drawing = JSON.stringify([state.overlay, state.size, state.draw]);
    if (key === listed && drawing === drawn) return;
    let total = scroller.total;
    if (key !== listed) {
      listed = null; // an error leaves no list that a later state could go on with
      try {
        total = await list(state);
      } catch (error) {
        if (error.name === "AbortError") throw error;
        status.textContent = "";
        nothing.replaceChildren(failure(error));
        drawn = null;
        return;
      }
    }
    [listed, drawn] = [key, drawing];
    const { cell: width } = SIZES[state.size];
    const first = Number(state.at || 0);
    scroller.set({ total, width, height: width + (state.sort === "" ? 44 : 60), first });
    await pictures(scroller.box);
  }

  return {
    title: () => "Rows",
    update,
    keys: (event) => moveFocus(event, scroller),
    close() {
      rows?.stop.abort();
      clearTimeout(timer);
      scroller.close();
      main.classList.remove("fills");
    },
  };
}

function sentence(state, total, { state: progressing, progress, note }) {
  const rest = note ? `; ${note}` : "";
  if (progressing === "building") return `measuring rows: ${Math.round(100 * progress)} %${rest}`;
  const some = `${plural(total, "row")}${rest}`;
  return state.sample === "" || (progressing === "ready" && note === null) ? some : `a random sample of ${plural(total, "row")} (seed ${state.seed || 0})`;
}

/** Of an order by what was measured on a sample: a button that measures all rows of the list. */
function measureAll(state, { state: progressing, note, of }) {
  if (progressing !== "ready" || !note || state.sample !== "") return "";
  const rows = Math.min(of, MOST_MEASURED);
  return el("button", { type: "button", class: "needs-cache", onclick: () => go({ sample: String(rows), at: "", index: "" }) },
    rows === of ? `Measure all ${plural(of, "row")}` : `Measure ${plural(rows, "row")}`);
}

/** A cell; grey until its row is known. */
function oneCell(index, row) {
  if (row === undefined) return el("div", { class: "cell waiting", role: "listitem" }, el("span", { class: "thumb" }));
  const state = current();
  const bad = Object.entries(row.status).filter(([, status]) => status !== "ok");
  const upon = [
    state.overlay === "" || (row.status[state.overlay] ?? "missing") !== "ok" ? null : overlay(row.dataset, row.row, state.overlay, state.draw),
    bad.length ? el("span", { class: "badge bad" }, bad.map(([array, status]) => `${array} ${status}`).join(", ")) : null,
  ].filter(Boolean);
  const lines = captionOf(row);
  if (state.sort !== "") lines.push(`${state.sort.split(":").pop()} ${figureOrText(row.sort_value)}`);
  const element = cell({ ...row, index, size: state.size, upon, lines, there: (row.status.pixels ?? "ok") === "ok" });
  element.dataset.index = index;
  return element;
}

const figureOrText = (value) => (typeof value === "number" ? figure(value, 4) : String(value ?? "\u2014"));

/** Arrow keys go from cell to cell. */
function moveFocus(event, scroller) {
  const focused = document.activeElement?.closest?.(".cell[data-index]");
  const steps = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -scroller.columns, ArrowDown: scroller.columns };
  if (!focused || !(event.key in steps)) return false;
  const index = Number(focused.dataset.index) + steps[event.key];
  if (index < 0 || index >= scroller.total) return true;
  scroller.reveal(index);
  scroller.cells.get(index)?.querySelector("a")?.focus({ preventScroll: true });
  return true;
}

/** All pictures in an element, come or failed. */
export async function pictures(element) {
  const images = [...element.querySelectorAll("img")].filter((image) => image.getAttribute("src") && !image.complete);
  await Promise.all(images.map((image) => new Promise((done) => {
    image.loading = "eager";
    image.addEventListener("load", done, { once: true });
    image.addEventListener("error", done, { once: true });
  })));
}
