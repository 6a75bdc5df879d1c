// Choosing patches: click, drag over a rectangle, Shift adds, and the same from the keyboard.

import { rectangle } from "./maps.js";

/**
 * Let patches of a tile be chosen.
 *
 * `chosen()` gives the present numbers on this tile's grid; `choosing(tile, patches, done)` is called while a drag goes
 * on (done false) and at its end (true); `hovering(tile, patch)` with the patch under the pointer, null on leaving.
 */
export function selectable(tile, { chosen, choosing, hovering }) {
  let [start, before, last, cursor] = [null, [], null, null];
  const { stack } = tile;
  const union = (a, b) => [...new Set([...a, ...b])];

  const begin = (event) => {
    if (event.button !== 0) return;
    event.preventDefault();
    stack.focus({ preventScroll: true });
    stack.setPointerCapture(event.pointerId);
    start = last = cursor = tile.patchOf(event);
    before = event.shiftKey || event.ctrlKey || event.metaKey ? chosen() : [];
    // Adding a patch that is chosen takes it away.
    if (before.includes(start)) {
      choosing(tile, before.filter((patch) => patch !== start), true);
      start = null;
      return;
    }
    choosing(tile, union(before, [start]), false);
  };

  const move = (event) => {
    const patch = tile.patchOf(event);
    if (patch === last && event.type === "pointermove") return;
    last = patch;
    hovering(tile, patch);
    if (start !== null) choosing(tile, union(before, rectangle(start, patch, tile.grid)), false);
  };

  const end = (event) => {
    if (start === null) return;
    const patches = union(before, rectangle(start, tile.patchOf(event), tile.grid));
    start = null;
    choosing(tile, patches, true);
  };

  const leave = () => {
    last = null;
    if (start === null) hovering(tile, null);
  };

  const key = (event) => {
    const [h, w] = tile.grid;
    const steps = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] };
    if (event.key in steps) {
      const [down, right] = steps[event.key];
      const at = cursor ?? Math.floor(h / 2) * w + Math.floor(w / 2);
      const row = Math.max(0, Math.min(h - 1, Math.floor(at / w) + down));
      const column = Math.max(0, Math.min(w - 1, (at % w) + right));
      cursor = cursor === null ? at : row * w + column;
      hovering(tile, cursor);
      if (event.shiftKey) choosing(tile, union(chosen(), [cursor]), true);
    } else if ((event.key === "Enter" || event.key === " ") && cursor !== null) {
      choosing(tile, event.shiftKey ? union(chosen(), [cursor]) : [cursor], true);
    } else return;
    event.preventDefault();
    event.stopPropagation();
  };

  stack.addEventListener("pointerdown", begin);
  stack.addEventListener("pointermove", move);
  stack.addEventListener("pointerup", end);
  stack.addEventListener("pointercancel", () => { start = null; });
  stack.addEventListener("pointerleave", leave);
  stack.addEventListener("keydown", key);
  stack.addEventListener("blur", () => { cursor = null; hovering(tile, null); });
}
