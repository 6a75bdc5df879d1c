// A list of any length in a box that scrolls: only what is seen is in the document.
//
// Browsers cap the height of a document at some ten million pixels, and twenty million rows are higher. The box is then
// shorter than its content. Near both ends a pixel of the scroll bar is a pixel of the content; in the middle it stands
// for many, while small movements (wheel, arrows, page down) still move the content by what they say.

import { el } from "./dom.js";

const TALLEST_PX = 8_000_000;
const EXACT_PX = 1_000_000; // at either end
const SETTLED_MS = 140;

/** Where content of `whole` pixels stands when a bar of `height` stands at `bar`, and back. */
function contentOf(bar, whole, height) {
  if (whole <= height || bar <= EXACT_PX) return bar;
  if (bar >= height - EXACT_PX) return whole - (height - bar);
  return EXACT_PX + ((bar - EXACT_PX) * (whole - 2 * EXACT_PX)) / (height - 2 * EXACT_PX);
}

function barOf(content, whole, height) {
  if (whole <= height || content <= EXACT_PX) return content;
  if (content >= whole - EXACT_PX) return height - (whole - content);
  return EXACT_PX + ((content - EXACT_PX) * (height - 2 * EXACT_PX)) / (whole - 2 * EXACT_PX);
}

/**
 * A windowed grid of cells.
 *
 * `cell(index)` makes the element of one cell, `drop(element, index)` is told when it goes; `seen(first, last)` is
 * called when the visible range has changed, `settled(first)` when scrolling has come to rest.
 */
export class Scroller {
  constructor({ cell, drop, seen, settled, label }) {
    Object.assign(this, { cell, drop, seen, settled });
    this.layer = el("div", { class: "layer", role: "list" });
    this.spacer = el("div", { class: "spacer" }, this.layer);
    this.box = el("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": label }, this.spacer);
    this.cells = new Map();
    [this.total, this.top, this.bar, this.columns, this.line] = [0, 0, 0, 1, 1];
    this.box.addEventListener("scroll", () => this.moved(), { passive: true });
    this.observer = new ResizeObserver(() => this.layout());
    this.observer.observe(this.box);
  }

  close() {
    this.observer.disconnect();
    clearTimeout(this.timer);
  }

  /** Lay out `total` cells of `width` by `height` pixels, with cell `first` on top. */
  set({ total, width, height, first = 0 }) {
    this.clear();
    Object.assign(this, { total, width, height, first });
    this.layout();
  }

  clear() {
    for (const [index, element] of this.cells) this.drop(element, index);
    this.cells.clear();
    this.layer.replaceChildren();
  }

  get whole() {
    return Math.ceil(this.total / this.columns) * this.line;
  }

  layout() {
    const room = this.box.clientWidth;
    if (room === 0 || !this.width) return;
    const first = this.first ?? 0;
    this.columns = Math.max(1, Math.floor(room / this.width));
    this.cellWidth = Math.floor(room / this.columns);
    this.line = this.height + (this.cellWidth - this.width); // pictures stay square
    this.clear();
    this.barHeight = Math.min(this.whole, TALLEST_PX);
    this.spacer.style.height = `${this.barHeight}px`;
    this.goTo(first);
  }

  /** Scroll so that a cell is in the topmost line. */
  goTo(index) {
    const highest = Math.max(0, this.whole - this.box.clientHeight);
    this.top = Math.min(highest, Math.floor(index / this.columns) * this.line);
    this.settle();
    this.render();
  }

  /** Scroll as little as is needed for a cell to be seen whole. */
  reveal(index) {
    const y = Math.floor(index / this.columns) * this.line;
    if (y < this.top) this.top = y;
    else if (y + this.line > this.top + this.box.clientHeight) this.top = y + this.line - this.box.clientHeight;
    else return;
    this.settle();
    this.render();
  }

  moved() {
    const step = this.box.scrollTop - this.bar;
    this.bar = this.box.scrollTop;
    if (step === 0) return;
    const small = Math.abs(step) < 2 * this.box.clientHeight;
    const there = contentOf(this.bar, this.whole, this.barHeight);
    this.top = small ? this.top + step : there;
    this.top = Math.max(0, Math.min(this.whole - this.box.clientHeight, this.top));
    this.render();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.settle();
      this.render();
      this.settled(this.first);
    }, SETTLED_MS);
  }

  /** Bring the bar to where the content is: after small movements in the middle they differ. */
  settle() {
    const bar = barOf(this.top, this.whole, this.barHeight);
    if (Math.abs(bar - this.box.scrollTop) >= 1) this.box.scrollTop = bar;
    this.bar = this.box.scrollTop;
  }

  render() {
    const shown = this.box.clientHeight;
    const from = Math.max(0, Math.floor(this.top / this.line) - 1) * this.columns;
    const to = Math.min(this.total, (Math.ceil((this.top + shown) / this.line) + 1) * this.columns);
    for (const [index, element] of this.cells) {
      if (index >= from && index < to) continue;
      this.drop(element, index);
      element.remove();
      this.cells.delete(index);
    }
    this.first = Math.min(Math.max(0, this.total - 1), Math.floor(this.top / this.line + 0.5) * this.columns);
    this.seen(from, to);
    for (let index = from; index < to; index += 1) {
      if (!this.cells.has(index)) this.add(index);
      this.put(index);
    }
  }

  add(index) {
    const element = this.cell(index);
    this.cells.set(index, element);
    const next = this.cells.get(index + 1); // so that the order in the document is that of the list
    if (next?.parentNode === this.layer) this.layer.insertBefore(element, next);
    else this.layer.append(element);
  }

  put(index) {
    const element = this.cells.get(index);
    const x = (index % this.columns) * this.cellWidth;
    const y = Math.floor(index / this.columns) * this.line - this.top + this.bar;
    element.style.transform = `translate(${x}px, ${Math.round(y)}px)`;
    element.style.width = `${this.cellWidth}px`;
    element.style.height = `${this.line}px`;
  }

  /** Make a cell again, for instance once its data have come. */
  renew(index) {
    const old = this.cells.get(index);
    if (old === undefined) return;
    const element = this.cell(index);
    this.drop(old, index);
    old.replaceWith(element);
    this.cells.set(index, element);
    this.put(index);
  }
}
