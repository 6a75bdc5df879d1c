// The present view as a file.

import { el } from "./dom.js";
import { search } from "./state.js";

export function exportMenu() {
  const target = (kind) => `export?state=${encodeURIComponent(search())}&kind=${kind}`;
  const item = (kind, text) => el("button", { type: "button", onclick: () => { location.href = target(kind); } }, text);
  return el("details", { class: "menu" }, el("summary", {}, "Export"), el("div", {}, item("html", "HTML file, works offline"), item("png", "PNG picture")));
}
