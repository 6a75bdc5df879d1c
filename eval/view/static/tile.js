// One picture of a row: the photograph, the stored pixels, or an array's map; with what lies upon it and stands below it.

import { el, figure, svg } from "./dom.js";
import { draw, outline, patchAt } from "./maps.js";
import { legend } from "./colours.js";

/** A figure with a stack of layers: pixels below, a map upon them, outlines on top. */
export class Tile {
  /** `name` heads the tile; `grid` [h, w] is that of its patches, null for a photograph; `map` says if one is drawn. */
  constructor({ name, title = name, detail = "", grid = null, under = null, map = true, onname = null }) {
    Object.assign(this, { name, grid });
    this.canvas = map ? el("canvas", { class: "map", data: { array: name } }) : null;
    this.value = el("output", { class: "value" });
    const heading = onname === null
      ? el("b", { title }, title)
      : el("button", { type: "button", class: "name", title: `choose ${title}`, "data-value": name, onclick: onname }, title);
    this.marks = svg("svg", { class: "marks", "aria-hidden": "true", preserveAspectRatio: "none" });
    this.stack = el("div", { class: "stack" }, under, this.canvas, this.marks);
    this.below = el("div", { class: "below" });
    this.node = el("figure", { class: "tile", data: { tile: name } },
      el("figcaption", {}, heading, el("span", { class: "detail" }, detail), this.value), this.stack, this.below);
    if (grid !== null) this.selectable(grid);
  }

  /** Take another grid: that of the chosen teacher, on the stored pixels. */
  setGrid([h, w]) {
    this.grid = [h, w];
    this.marks.setAttribute("viewBox", `0 0 ${w} ${h}`);
    this.stack.setAttribute("aria-label", `patches of ${this.name}, ${h} by ${w}: arrow keys move, Enter chooses, Shift adds`);
  }

  selectable(grid) {
    this.marks.append(svg("path", { class: "chosen" }), svg("path", { class: "hovered" }));
    this.stack.classList.add("selectable");
    this.stack.tabIndex = 0;
    this.stack.setAttribute("role", "application");
    this.stack.setAttribute("aria-roledescription", "map of patches");
    this.setGrid(grid);
  }

  /** Draw a map (see maps.js) with its scale below. */
  show(map, drawing) {
    this.map = map;
    draw(this.canvas, map, drawing);
    this.canvas.style.visibility = "visible";
    const scale = map.kind === "rgb"
      ? el("div", { class: "rgbkey" }, ["red", "green", "blue"].map((colour, at) => el("span", {}, el("i", { class: colour }), `PC ${at + 1}`)))
      : legend(map.colours, map.low, map.high, map.unit);
    this.below.replaceChildren(scale, ...(map.note ? [el("p", { class: "note" }, map.note)] : []));
    this.node.classList.remove("waiting");
  }

  /** Say why there is no map. */
  lack(text) {
    this.map = null;
    if (this.canvas) this.canvas.style.visibility = "hidden";
    this.below.replaceChildren(el("p", { class: "note" }, text));
    this.node.classList.remove("waiting");
  }

  waits() {
    this.node.classList.add("waiting");
  }

  /** Outline patches of this tile's grid. */
  choose(patches) {
    this.marks.querySelector(".chosen")?.setAttribute("d", outline(patches, this.grid));
  }

  /** Outline the patch under the pointer and tell its value. */
  hover(patch) {
    if (this.grid === null) return;
    const value = patch === null ? null : this.valueOf(patch);
    this.value.textContent = value === null ? "" : figure(value);
    this.marks.querySelector(".hovered")?.setAttribute("d", patch === null ? "" : outline([patch], this.grid));
  }

  /** The patch under a pointer. */
  patchOf(event) {
    const box = this.stack.getBoundingClientRect();
    return patchAt((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height, this.grid);
  }

  /** The value that the map shows of a patch, or null. */
  valueOf(patch) {
    if (!this.map || this.map.kind !== "scalar" || !this.map.there[patch]) return null;
    return this.map.values[patch];
  }
}

/** The outline of the stored view in the photograph: `crop` in pixels of the source, its size [height, width] known. */
export function cropMarks(tile, crop, [height, width]) {
  tile.marks.setAttribute("viewBox", `0 0 ${width} ${height}`);
  tile.marks.setAttribute("preserveAspectRatio", "xMidYMid meet"); // as the photograph itself lies in its square
  tile.marks.append(svg("path", { class: "shade", d: `M0 0H${width}V${height}H0Z M${crop.left} ${crop.top}v${crop.height}h${crop.width}v${-crop.height}Z` }),
    svg("rect", { class: "crop", x: crop.left, y: crop.top, width: crop.width, height: crop.height }));
}
