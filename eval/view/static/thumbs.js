// Small pictures of rows, in the overview, the grid and the results of a search.

import { picture } from "./api.js";
import { basename, count, el } from "./dom.js";
import { current, link, places, rowLink, setQuietly, toggledBeside } from "./state.js";

/** Pixels a thumbnail asks the server for, and is wide, by the state's `size`. */
export const SIZES = { s: { ask: 128, cell: 104 }, m: { ask: 192, cell: 152 }, l: { ask: 320, cell: 240 } };

const noPixels = () => el("span", { class: "nopixels" }, "no pixels stored");

/** The stored pixels of a row; where there are none (`there` says if that is known), words in their place. */
export function pixels(dataset, row, size, there = true) {
  if (!there) return noPixels();
  const image = el("img", {
    alt: `stored pixels of row ${row} of ${dataset}`,
    loading: "lazy",
    decoding: "async",
    draggable: "false",
    src: picture("img/pixels", { dataset, row, size }),
  });
  image.addEventListener("error", () => image.replaceWith(noPixels()));
  return image;
}

/** The map of a teacher to lie on a thumbnail; nothing where the row has none. */
export function overlay(dataset, row, array, draw) {
  const image = el("img", {
    class: `overlay ${draw}`,
    alt: "",
    decoding: "async",
    draggable: "false",
    src: picture("api/thumb", { dataset, row, array, mode: "pca" }),
  });
  image.addEventListener("error", () => image.remove());
  return image;
}

/** A cell with a link to its row: `upon` lies on the picture, `lines` stand below it. */
export function cell({ dataset, row, index = "", size, upon = [], lines = [], href, there = true }) {
  const thumb = el("span", { class: "thumb" }, pixels(dataset, row, SIZES[size].ask, there), upon);
  return el("div", { class: "cell", role: "listitem", data: { dataset, row } },
    el("a", { href: href ?? rowLink(dataset, row, index) }, thumb,
      el("span", { class: "caption" }, lines.map((line) => el("span", { title: line }, line)))),
    besideButton(dataset, row));
}

/** Two lines on a row: where it is, and the image's file name. */
export const captionOf = ({ dataset, row, image }) => [`${dataset} ${count(row)}`, basename(image)];

function besideButton(dataset, row) {
  const isBeside = () => places(current().beside).some((one) => one.dataset === dataset && one.row === Number(row));
  const button = el("button", {
    type: "button",
    class: "plus",
    "aria-pressed": String(isBeside()),
    "aria-label": `put row ${row} of ${dataset} beside the open row`,
    title: "put beside the open row",
    onclick: () => {
      setQuietly({ beside: toggledBeside(dataset, Number(row)) });
      button.setAttribute("aria-pressed", String(isBeside()));
    },
  }, "+");
  return button;
}

/** A row of thumbnails that wraps; without pixels, of the rows' numbers. */
export const strip = (rows, there = true) =>
  el("div", { class: "strip", role: "list" },
    rows.map(({ dataset, row }) => el("span", { role: "listitem" },
      el("a", { class: "thumb", href: rowLink(dataset, row), title: `${dataset} ${row}` },
        there ? pixels(dataset, row, SIZES.s.ask) : el("span", { class: "nopixels" }, `row ${count(row)}`)))));

/** A link to the grid that shows some rows only; other conditions are taken away. */
export const gridLink = (conditions) =>
  link({ page: "grid", from: "", group: "", status: "", reason: "", view: "", where: "", sql: "", sample: "", at: "", index: "", ...conditions });
