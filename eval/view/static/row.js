// One row: its photograph, its pixels and every teacher side by side; choose patches, and see what is alike in all.

import { ask, offline, overview, picture } from "./api.js";
import { basename, count, el, empty, failure, figure, refill } from "./dom.js";
import { listQuestion, pictures } from "./grid.js";
import { cosineMap, decoded, onGrid, selectionOn } from "./maps.js";
import { MODES, besideForm, controls, possibleModes, selection } from "./row_controls.js";
import { selectable } from "./select.js";
import { UNCHOSEN, current, go, keptMode, link, numbers, place, places, rowLink, toggledBeside } from "./state.js";
import { Tile, cropMarks } from "./tile.js";

const HOVER_MS = 120;

export function open(main) {
  return new RowPage(main);
}

class RowPage {
  constructor(main) {
    this.main = main;
    this.head = el("div", { class: "rowhead" });
    this.bar = el("div", { class: "bars" });
    this.readout = el("p", { class: "readout" });
    this.sections = el("div", { class: "sections" });
    this.foot = el("div");
    this.shown = []; // {answer, tiles} of the open row and those beside it
    this.live = { wanted: null, busy: false };
    main.replaceChildren(this.head, this.bar, this.readout, this.sections, this.foot);
  }

  title() {
    const { dataset, row } = current();
    return dataset === "" ? "Row" : `${dataset} ${row}`;
  }

  async update(state, signal) {
    this.facts = await overview();
    if (state.dataset === "" || state.row === "") return this.nothing();
    const wanted = [{ dataset: state.dataset, row: Number(state.row) }, ...places(state.beside)];
    const unique = wanted.filter((one, at) => wanted.findIndex((other) => place(other) === place(one)) === at);
    const answers = await Promise.all(unique.map((one, at) => ask("api/row", one, { signal }).catch((error) => {
      if (at === 0 || error.name === "AbortError") throw error;
      return { ...one, error: error.message, arrays: [], status: {}, reasons: {}, image: "", columns: {} };
    })));
    this.state = state;
    this.steps = await this.neighbours(state, answers[0], signal);
    const key = JSON.stringify([unique, answers.map((answer) => answer.arrays)]);
    if (key !== this.built) this.build(answers, state);
    this.built = key;
    this.dress(answers, state);
    await Promise.all([this.maps(state, signal), pictures(this.sections)]);
  }

  nothing() {
    this.built = null;
    this.head.replaceChildren(empty("No row is open.", "Choose one among the rows."), el("a", { class: "button", href: link({ page: "grid" }) }, "Go to the rows"));
    for (const node of [this.bar, this.readout, this.sections, this.foot]) node.replaceChildren();
  }

  /** The array in whose grid patches are chosen on the stored pixels. */
  active(answer, state) {
    const names = answer.arrays.map((array) => array.name);
    return [state.array, state.source].find((name) => names.includes(name)) ?? names[0] ?? "";
  }

  activeGrid(answer, state) {
    return answer.arrays.find((array) => array.name === this.active(answer, state))?.grid ?? null;
  }

  /** Previous and next: along the list that the row was opened from, else in its dataset. */
  async neighbours(state, answer, signal) {
    const index = state.index === "" ? null : Number(state.index);
    if (index === null) {
      const to = (row) => (row === null ? null : { row: String(row) });
      return { previous: to(answer.previous), next: to(answer.next), where: `row ${count(answer.row)} of ${answer.dataset}` };
    }
    const from = Math.max(0, index - 1);
    const list = await ask("api/rows", listQuestion(state, from, 3), { signal, remember: false }).catch((error) => {
      if (error.name === "AbortError") throw error;
      return { rows: [], total: null };
    });
    const to = (at) => (at < 0 || list.rows[at - from] === undefined ? null
      : { dataset: list.rows[at - from].dataset, row: String(list.rows[at - from].row), index: String(at) });
    return { previous: to(index - 1), next: to(index + 1), where: `${count(index + 1)} of ${count(list.total)} in the list` };
  }

  build(answers, state) {
    this.readout.textContent = "";
    this.shown = answers.map((answer, at) => this.section(answer, state, at));
    this.sections.replaceChildren(...this.shown.map((section) => section.node));
  }

  section(answer, state, at) {
    const where = { dataset: answer.dataset, row: answer.row };
    const there = (answer.status.pixels ?? "ok") === "ok";
    const under = () => there && el("img", { class: "under", alt: "", draggable: "false", src: picture("img/pixels", where) });
    const grid = this.activeGrid(answer, state);
    const tiles = [];
    if (answer.has_photograph) tiles.push(photograph(answer));
    const stored = new Tile({ name: "pixels", title: "stored pixels", detail: answer.crop?.flip ? "mirrored" : "", grid, map: false, under: under() });
    if (!there) stored.lack(`${answer.status.pixels}: ${answer.reasons.pixels ?? "no reason recorded"}`);
    tiles.push(stored);
    for (const array of answer.arrays) {
      const [h, w] = array.grid;
      tiles.push(new Tile({
        name: array.name, title: titleOf(array.name), detail: `${h} \u00d7 ${w} \u00b7 ${count(array.channels)} ch`, grid: array.grid, under: under(),
        onname: () => go({ array: array.name }),
      }));
    }
    const section = { answer, tiles, ...where };
    for (const tile of tiles) if (tile.grid) this.listen(section, tile);
    const body = answer.error ? failure(answer.error) : el("div", { class: "tiles" }, tiles.map((tile) => tile.node));
    section.node = el("section", { class: "shown", "aria-label": `row ${answer.row} of ${answer.dataset}` }, at === 0 ? null : besideHead(answer), body);
    return section;
  }

  listen(section, tile) {
    const arrayOf = () => (tile.canvas ? tile.name : this.active(section.answer, this.state));
    selectable(tile, {
      chosen: () => this.chosenOn(section, tile.grid),
      choosing: (_, patches, done) => this.choose(section, arrayOf(), patches, done),
      hovering: (_, patch) => this.hover(section, tile, arrayOf(), patch),
    });
  }

  /** The chosen patches on a grid of a section, none if they are of another row. */
  chosenOn(section, grid) {
    const { array, patches, section: of } = this.choice;
    if (of !== section || patches.length === 0) return [];
    const own = of.answer.arrays.find((one) => one.name === array)?.grid;
    return own ? selectionOn(patches, own, grid) : [];
  }

  choose(section, array, patches, done) {
    this.choice = { section, array, patches };
    this.outline();
    const of = section === this.shown[0] ? "" : place(section);
    if (!done) return this.draft({ ...this.state, patches: patches.join(","), source: array, of });
    this.live.wanted = null;
    if (patches.length === 0) go({ ...UNCHOSEN, mode: keptMode() });
    else go({ patches: patches.join(","), source: array, array, of, mode: "cosine" });
  }

  /** While a drag goes on: the latest choice is asked for as soon as the one before is answered. */
  async draft(state) {
    this.live.wanted = state;
    if (this.live.busy) return;
    this.live.busy = true;
    try {
      while (this.live.wanted !== null) {
        const next = this.live.wanted;
        this.live.wanted = null;
        await this.cosines(next);
      }
    } catch (error) {
      if (error.name !== "AbortError") this.readout.textContent = error.message;
    } finally {
      this.live.busy = false;
    }
  }

  outline() {
    for (const section of this.shown) for (const tile of section.tiles) if (tile.grid) tile.choose(this.chosenOn(section, tile.grid));
  }

  /** Head, bars and foot, and how all tiles look. */
  dress(answers, state) {
    const patches = numbers(state.patches);
    this.choice = { section: this.sectionOf(state), array: state.source, patches };
    for (const { answer, tiles } of this.shown) {
      const grid = this.activeGrid(answer, state);
      if (grid) tiles.find((tile) => tile.name === "pixels").setGrid(grid);
    }
    this.outline();
    this.main.style.setProperty("--opacity", String(state.over / 100));
    this.sections.dataset.size = state.size;
    const active = this.active(answers[0], state);
    for (const section of this.shown) for (const tile of section.tiles) tile.node.classList.toggle("active", tile.name === active);
    refill(this.head, head(answers[0], this.steps));
    refill(this.bar, controls(this.facts, state), el("div", { class: "controls row" }, selection(state, patches.length), besideForm(state)));
    refill(this.foot, recorded(answers[0]));
  }

  async maps(state, signal) {
    if (state.mode === "cosine" && state.patches !== "") return this.cosines(state, signal);
    this.takeTurn();
    const mode = state.mode === "cosine" ? "pca" : state.mode;
    await Promise.all(this.shown.flatMap((section) => section.tiles.filter((tile) => tile.canvas).map(async (tile) => {
      if (isLacking(section.answer, tile)) return;
      if (mode === "error" && !hasError(section.answer, tile.name, this.runOf(state))) {
        tile.lack("the student has no error against this");
        return;
      }
      tile.waits();
      const shown = this.shown.map(place);
      const question = { dataset: section.dataset, row: section.row, array: tile.name, mode, basis: mode === "pca" ? state.basis : "",
        shown: mode === "pca" && state.basis === "shown" ? shown.join(",") : "", run: mode === "error" ? this.runOf(state) : "" };
      try {
        tile.show(decoded(await ask("api/map", question, { signal })), state.draw);
      } catch (error) {
        if (error.name === "AbortError") throw error;
        tile.lack(error.message);
      }
    })));
  }

  /** The section of the row that the chosen patches are of. */
  sectionOf(state) {
    return (state.of !== "" && this.shown.find((section) => place(section) === state.of)) || this.shown[0];
  }

  /** Whoever begins to draw maps takes a turn; answers to an older one come too late. */
  takeTurn() {
    this.turn = (this.turn ?? 0) + 1;
    return this.turn;
  }

  /** The run whose errors are drawn. */
  runOf(state) {
    return state.run || (this.facts.runs[0]?.name ?? "");
  }

  async cosines(state, signal) {
    const turn = this.takeTurn();
    const of = this.sectionOf(state);
    const others = this.shown.filter((section) => section !== of && !section.answer.error);
    const answer = await ask("api/cosines", { dataset: of.dataset, row: of.row, array: state.source, patches: state.patches,
      with: others.map(place).join(",") }, { signal });
    if (turn !== this.turn) return; // something newer is being drawn
    for (const section of this.shown) {
      for (const tile of section.tiles.filter((one) => one.canvas)) {
        const found = answer.arrays[tile.name];
        const map = found?.maps.find((one) => one.dataset === section.dataset && one.row === section.row);
        if (isLacking(section.answer, tile)) continue;
        if (map === undefined) tile.lack(found?.note ?? "the row of the chosen patches has no tokens of this array");
        else tile.show(cosineMap(map, state.range), state.draw);
      }
    }
  }

  hover(section, tile, array, patch) {
    clearTimeout(this.timer);
    for (const one of section.tiles) if (one.grid) one.hover(patch === null ? null : onGrid(patch, tile.grid, one.grid));
    if (patch === null) {
      this.readout.textContent = "";
      return;
    }
    const [line, column] = [Math.floor(patch / tile.grid[1]), patch % tile.grid[1]];
    const start = `${titleOf(array)}, patch ${patch} (line ${line}, column ${column})`;
    this.readout.textContent = start;
    if (offline() !== null) return;
    this.timer = setTimeout(async () => {
      const values = await ask("api/patch", { dataset: section.dataset, row: section.row, array, patch }).catch((error) => ({ note: error.message }));
      const channels = (values.channels ?? []).slice(0, 4).map((one) => `${one.channel}: ${figure(one.value)}`).join(", ");
      const rest = values.note ? `: ${values.note}` : `: norm ${figure(values.norm)}; channels that stand out ${channels}`;
      if (this.readout.textContent === start) this.readout.textContent = start + rest;
    }, HOVER_MS);
  }

  keys(event) {
    const step = (to) => to && go({ ...to, ...UNCHOSEN, mode: keptMode() });
    if (event.key === "n" || event.key === "ArrowRight") step(this.steps?.next);
    else if (event.key === "p" || event.key === "ArrowLeft") step(this.steps?.previous);
    else if (event.key === "Escape") go({ ...UNCHOSEN, mode: keptMode() });
    else if (event.key.toLowerCase() === "t") this.nextTeacher(event.key === "T" ? -1 : 1);
    else if (event.key.toLowerCase() === "m") this.nextMode(event.key === "M" ? -1 : 1);
    else if (event.key === "b") go({ basis: { row: "shown", shown: "dataset", dataset: "row" }[current().basis] ?? "row" });
    else return false;
    return true;
  }

  nextTeacher(step) {
    const names = this.shown[0]?.answer.arrays.map((array) => array.name) ?? [];
    if (names.length === 0) return;
    const at = names.indexOf(this.active(this.shown[0].answer, current()));
    go({ array: names[(at + step + names.length) % names.length] });
  }

  nextMode(step) {
    const state = current();
    const modes = possibleModes(this.facts, state).filter((mode) => !mode.disabled).map((mode) => mode.value);
    go({ mode: modes[(modes.indexOf(state.mode) + step + modes.length) % modes.length] ?? MODES[0].value });
  }

  close() {
    clearTimeout(this.timer);
    this.live.wanted = null;
  }
}

/** "student:night" as "student night", "projection:night:dinov2" as "night \u2192 dinov2". */
const titleOf = (name) => name.replace(/^student:/, "student ").replace(/^projection:(.*):([^:]*)$/, "$1 \u2192 $2");

/** Whether a row has no tokens of a tile's teacher; the tile then says why. */
function isLacking(answer, tile) {
  const status = answer.status[tile.name];
  if (status === undefined || status === "ok") return false;
  tile.lack(`${status}: ${answer.reasons[tile.name] ?? "no reason recorded"}`);
  return true;
}

/** Whether a run was trained on what a tile shows: on its teacher, or it is the run's own projection. */
const hasError = (answer, name, run) => answer.arrays.some((one) => one.name === `projection:${run}:${name}`) || name.startsWith(`projection:${run}:`);

function photograph(answer) {
  const { crop } = answer;
  const image = el("img", { class: "whole", alt: `source photograph ${answer.image}`, draggable: "false",
    src: picture("img/photograph", { dataset: answer.dataset, row: answer.row, size: 640 }) });
  const tile = new Tile({ name: "photograph", detail: crop?.source_width ? `${crop.source_width} \u00d7 ${crop.source_height} px` : "", map: false, under: image });
  image.addEventListener("error", () => tile.lack("the photograph cannot be read"));
  if (crop?.source_width) cropMarks(tile, crop, [crop.source_height, crop.source_width]);
  return tile;
}

function head(answer, { previous, next, where }) {
  const step = (to, text, title) => (to === null
    ? el("span", { class: "button disabled", "aria-disabled": "true" }, text)
    : el("a", { class: "button", "data-value": title, title, href: link({ ...to, ...UNCHOSEN, mode: keptMode() }) }, text));
  return [
    el("h1", {}, `${answer.dataset} `, el("span", { class: "number" }, count(answer.row))),
    el("p", { class: "muted path" }, el("bdi", {}, answer.image), ` \u00b7 view ${answer.view}`),
    el("div", { class: "steps" }, step(previous, "\u2039 Previous", "previous row (p)"), el("span", { class: "muted" }, where), step(next, "Next \u203a", "next row (n)"),
      el("a", { class: "back", href: link({ page: "grid" }) }, "all rows")),
  ];
}

const besideHead = (answer) => el("div", { class: "besidehead" },
  el("h2", {}, el("a", { href: rowLink(answer.dataset, answer.row) }, `${answer.dataset} ${count(answer.row)}`)),
  el("span", { class: "muted path" }, el("bdi", {}, basename(answer.image))),
  el("button", { type: "button", "aria-label": `take row ${answer.row} of ${answer.dataset} away`, onclick: () => go({ beside: toggledBeside(answer.dataset, answer.row) }) }, "\u00d7"));

/** All that the manifest has of the row. */
function recorded(answer) {
  const entries = Object.entries(answer.columns);
  if (entries.length === 0) return null;
  const shown = (value) => (value === null ? "\u2014" : typeof value === "object" ? JSON.stringify(value) : typeof value === "number" ? figure(value, 7) : String(value));
  return el("details", { class: "recorded" }, el("summary", {}, "What the manifest records of this row"),
    el("dl", {}, entries.map(([name, value]) => el("div", {}, el("dt", {}, name), el("dd", {}, shown(value))))));
}
