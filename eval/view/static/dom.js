// Elements, icons and numbers. Text only ever becomes a text node, so no name in a cache can become markup.

const SVG = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style") for (const [key, one] of Object.entries(value)) node.style.setProperty(key, one);
    else if (name === "data") Object.assign(node.dataset, value);
    else if (name === "value" || name === "checked" || name === "selected") node[name] = value;
    else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

/** An HTML element: `el("a", {class: "x", href: "?", onclick: f, style: {...}}, "text", child, [children])`. */
export const el = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

/** An SVG element, in the same way. */
export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS(SVG, tag), attributes, children);

/** A `<label>` around a control; the text stands before it. */
export const labelled = (text, control, attributes = {}) =>
  el("label", { class: "field", ...attributes }, el("span", {}, text), control);

/** A `<select>` of [value, text] pairs; a value that is not among them is added, so a link never loses its state. */
export function select(options, value, onchange, attributes = {}) {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  if (!pairs.some(([one]) => one === value)) pairs.push([value, value]);
  const node = el("select", { onchange: () => onchange(node.value), ...attributes });
  node.append(...pairs.map(([one, text]) => el("option", { value: one, selected: one === value }, text)));
  return node;
}

/** Buttons of which one is chosen, as a group that says so: `choices` are {value, text, title, disabled}. */
export function segmented(label, choices, value, onchange) {
  const button = (choice) =>
    el("button", {
      type: "button",
      "aria-pressed": String(choice.value === value),
      "data-value": choice.value,
      title: choice.title,
      disabled: choice.disabled,
      onclick: () => onchange(choice.value),
    }, choice.text);
  return el("div", { class: "segmented", role: "group", "aria-label": label }, choices.map(button));
}

const whole = new Intl.NumberFormat("en-GB");

export const count = (number) => (number === null || number === undefined ? "\u2014" : whole.format(number));

/** A number with `digits` significant digits; a dash where there is none. */
export function figure(number, digits = 3) {
  if (number === null || number === undefined || Number.isNaN(number)) return "\u2014";
  if (number !== 0 && (Math.abs(number) >= 1e6 || Math.abs(number) < 1e-3)) return number.toExponential(digits - 1);
  return String(Number(number.toPrecision(digits)));
}

export function bytes(number) {
  if (number === null || number === undefined) return "\u2014";
  const units = ["B", "kB", "MB", "GB", "TB", "PB"];
  let unit = 0;
  while (number >= 1000 && unit < units.length - 1) [number, unit] = [number / 1000, unit + 1];
  return `${unit === 0 ? number : number.toPrecision(3)} ${units[unit]}`;
}

/** "1 row", "2 rows". */
export const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** The last part of a path. */
export const basename = (path) => String(path ?? "").split("/").pop();

/** What an empty part of the page says, and what to do. */
export const empty = (title, advice) => el("div", { class: "empty" }, el("b", {}, title), el("p", {}, advice));

/** An error as one line. */
export const failure = (error) => el("p", { class: "error", role: "alert" }, error.message ?? String(error));

/** Replace what is in a node; a named control that had the focus has it again. */
export function refill(node, ...children) {
  const focused = node.contains(document.activeElement) ? document.activeElement : null;
  const [name, value] = [focused?.getAttribute("name"), focused?.getAttribute("data-value")];
  node.replaceChildren(...children.flat(Infinity).filter(Boolean));
  if (name) node.querySelector(`[name="${CSS.escape(name)}"]`)?.focus();
  else if (value) node.querySelector(`[data-value="${CSS.escape(value)}"]`)?.focus();
}
