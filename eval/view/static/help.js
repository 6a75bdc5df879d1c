// The dialog that says what the keys do.

import { el } from "./dom.js";

const KEYS = [
  ["1 \u2026 5", "overview, rows, row, find, statistics"],
  ["n  p", "next and previous row; also the arrows right and left"],
  ["t  T", "next and previous teacher"],
  ["m  M", "next and previous mode: PCA, norms, outliers, error, cosine"],
  ["b", "basis of the PCA: this row, the shown rows, the dataset"],
  ["d", "smooth or nearest drawing"],
  ["Esc", "clear the chosen patches"],
  ["/", "go to the filter"],
  ["l", "light or dark"],
  ["?", "this help"],
];

export function help() {
  if (document.querySelector("dialog.help[open]")) return;
  const dialog = el("dialog", { class: "help", "aria-labelledby": "help-title", onclose: () => dialog.remove() },
    el("h2", { id: "help-title" }, "Keys"),
    el("dl", {}, KEYS.map(([key, text]) => el("div", {}, el("dt", {}, key.split("  ").map((one) => el("kbd", {}, one))), el("dd", {}, text)))),
    el("p", { class: "muted" }, "On a picture of patches: click or drag to choose, Shift adds; with the keyboard arrows move, Enter chooses. ",
      "Everything you see is in the address: copy it to show somebody the same view."),
    el("form", { method: "dialog" }, el("button", { class: "primary" }, "Close")));
  document.body.append(dialog);
  dialog.showModal();
}
