// Scalar colour maps: seventeen stops each of matplotlib's viridis and magma (CC0), perceptually uniform; linear in between.

import { el, figure } from "./dom.js";

const STOPS = {
  viridis:
    "440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30 d8e219 fde725",
  magma:
    "000004 0a0822 1d1147 36106b 51127c 6a1c81 832681 9c2e7f b73779 d0416f e75263 f56b5c fc8961 fea772 fec488 fde2a3 fcfdbf",
};

/** 256 colours as bytes, (256, 3). */
function table(stops) {
  const ends = stops.split(" ").map((hex) => [0, 2, 4].map((at) => parseInt(hex.slice(at, at + 2), 16)));
  const colours = new Uint8Array(256 * 3);
  for (let level = 0; level < 256; level += 1) {
    const place = (level / 255) * (ends.length - 1);
    const below = Math.min(Math.floor(place), ends.length - 2);
    for (let channel = 0; channel < 3; channel += 1) {
      const [a, b] = [ends[below][channel], ends[below + 1][channel]];
      colours[3 * level + channel] = Math.round(a + (b - a) * (place - below));
    }
  }
  return colours;
}

export const TABLES = { viridis: table(STOPS.viridis), magma: table(STOPS.magma) };

/** Write the colour of `value` on the scale from `low` to `high` into bytes at `at`; what lies beyond has the end's colour. */
export function paint(bytes, at, value, low, high, colours) {
  const share = high > low ? (value - low) / (high - low) : 0.5;
  const level = Math.max(0, Math.min(255, Math.round(share * 255)));
  bytes[at] = colours[3 * level];
  bytes[at + 1] = colours[3 * level + 1];
  bytes[at + 2] = colours[3 * level + 2];
  bytes[at + 3] = 255;
}

/** A bar of a scale with both ends and the unit. */
export function legend(name, low, high, unit) {
  const canvas = el("canvas", { width: 256, height: 1, "aria-hidden": "true" });
  const context = canvas.getContext("2d");
  const image = context.createImageData(256, 1);
  for (let level = 0; level < 256; level += 1) paint(image.data, 4 * level, level, 0, 255, TABLES[name]);
  context.putImageData(image, 0, 0);
  const text = `scale from ${figure(low)} to ${figure(high)}${unit ? `, ${unit}` : ""}`;
  return el("div", { class: "legend", role: "img", "aria-label": text },
    el("span", {}, figure(low)), canvas, el("span", {}, figure(high)), unit ? el("span", { class: "unit" }, unit) : null);
}
