// The frame: pages by state, theme, keys, messages. While a view is not complete, the body has `data-busy`.

import { offline, watch } from "./api.js";
import { el, failure } from "./dom.js";
import { exportMenu } from "./export.js";
import * as find from "./find.js";
import * as grid from "./grid.js";
import { help } from "./help.js";
import * as overview from "./overview.js";
import * as row from "./row.js";
import { current, fix, go, link, listen, navigate } from "./state.js";
import * as statistics from "./statistics.js";

const PAGES = { overview, grid, row, find, statistics };
const NAMES = { overview: "Overview", grid: "Rows", row: "Row", find: "Find", statistics: "Statistics" };
const main = document.getElementById("main");
const message = document.getElementById("message");
let shown = { name: null, page: null };
let stop = new AbortController();

async function show(state) {
  stop.abort();
  stop = new AbortController();
  const { signal } = stop;
  const name = state.page in PAGES ? state.page : "overview";
  document.body.dataset.busy = "";
  dress(state, name);
  message.textContent = "";
  try {
    if (shown.name !== name) change(name);
    await shown.page.update(state, signal);
  } catch (error) {
    if (signal.aborted || error.name === "AbortError") return;
    shown.page?.close();
    shown = { name: null, page: null };
    main.replaceChildren(failure(error));
  }
  if (signal.aborted) return;
  document.title = `${shown.page?.title() ?? NAMES[name]} \u00b7 codistill view`;
  delete document.body.dataset.busy;
}

function change(name) {
  shown.page?.close();
  main.replaceChildren();
  main.className = name;
  shown = { name, page: PAGES[name].open(main) };
  scrollTo(0, 0);
}

/** What frames every page: theme, tabs, tools. */
function dress(state, name) {
  const root = document.documentElement;
  if (state.theme === "light" || state.theme === "dark") root.dataset.theme = state.theme;
  else delete root.dataset.theme;
  const tab = (key) => el("a", { href: link({ page: key }), "aria-current": key === name ? "page" : null, "data-value": key }, NAMES[key]);
  const focused = document.activeElement?.getAttribute?.("data-value");
  const tabs = document.getElementById("tabs");
  const within = tabs.contains(document.activeElement);
  tabs.replaceChildren(...Object.keys(PAGES).map(tab));
  if (within && focused) tabs.querySelector(`[data-value="${focused}"]`)?.focus();
  const theme = document.getElementById("theme");
  if (theme) theme.textContent = isDark() ? "Light" : "Dark";
}

const isDark = () => (document.documentElement.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
const otherTheme = () => go({ theme: isDark() ? "light" : "dark" }, { replace: true });

function tools() {
  const button = (text, title, onclick, attributes = {}) => el("button", { type: "button", title, onclick, ...attributes }, text);
  document.getElementById("tools").append(
    offline() === null ? button("Copy link", "copy the address of this view", copyLink) : "",
    offline() === null ? exportMenu(say) : "",
    button(isDark() ? "Light" : "Dark", "light or dark (l)", otherTheme, { id: "theme" }),
    button("?", "keys (?)", help, { "aria-label": "help and keys" }));
}

function say(text) {
  message.textContent = text;
}

async function copyLink() {
  try {
    await navigator.clipboard.writeText(location.href);
    say("The address of this view is copied.");
  } catch {
    say(`Copy it from the address bar: ${location.href}`); // browsers allow copying on secure addresses only
  }
}

function keys(event) {
  const typing = event.target.closest?.("input:not([type=range]), select, textarea, dialog");
  if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
  if (typing) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const page = Object.keys(PAGES)[Number(event.key) - 1];
  if (event.target.matches?.("input[type=range]") && event.key.startsWith("Arrow")) return;
  if (shown.page?.keys?.(event)) event.preventDefault();
  else if (page) go({ page });
  else if (event.key === "?") help();
  else if (event.key === "d") go({ draw: current().draw === "smooth" ? "nearest" : "smooth" });
  else if (event.key === "l") otherTheme();
  else if (event.key === "/" && main.querySelector("input[name=condition]")) {
    event.preventDefault();
    main.querySelector("input[name=condition]").focus();
  }
}

/** Links within the page change its state; with a modifier they open a tab, as links do. */
function follow(event) {
  const anchor = event.target.closest?.("a[href^='?']");
  if (!anchor || event.defaultPrevented || event.button !== 0 || event.ctrlKey || event.metaKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  navigate(anchor.getAttribute("href"));
}

if (offline() !== null) {
  fix(offline().search);
  document.body.classList.add("offline"); // without what needs the cache
}
tools();
watch((waiting) => { document.getElementById("progress").hidden = waiting === 0; });
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => dress(current(), shown.name));
document.addEventListener("keydown", keys);
document.addEventListener("click", follow);
listen(show);
show(current());
