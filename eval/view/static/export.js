// The present view as a file: the server makes it, the browser saves it.

import { file } from "./api.js";
import { el } from "./dom.js";
import { search } from "./state.js";

const KINDS = [["html", "HTML file, works offline"], ["png", "PNG picture"]];

/** A menu of the kinds of file; `say` shows how it went. */
export function exportMenu(say) {
  const items = KINDS.map(([kind, text]) => el("button", { type: "button", onclick: () => save(kind) }, text));
  const menu = el("details", { class: "menu", onkeydown: (event) => event.key === "Escape" && close() },
    el("summary", {}, "Export"), el("div", {}, items));
  const close = () => { menu.open = false; };
  document.addEventListener("click", (event) => menu.contains(event.target) || close());

  async function save(kind) {
    close();
    say("The file is being made\u2026");
    try {
      const blob = await file("export", { state: search(), kind });
      const anchor = el("a", { href: URL.createObjectURL(blob), download: name(kind) });
      anchor.click();
      setTimeout(() => URL.revokeObjectURL(anchor.href), 60_000);
      say(`Saved as ${anchor.download}.`);
    } catch (error) {
      say(error.message);
    }
  }

  return menu;
}

/** A name that says what the view is of. */
function name(kind) {
  const query = new URLSearchParams(search());
  const parts = [query.get("page") ?? "overview", query.get("dataset"), query.get("row"), query.get("array")];
  return `codistill-${parts.filter(Boolean).join("-").replace(/[^\w.-]+/g, "_")}.${kind}`;
}
