// Maps of patches: what the server sends, decoded; drawn on a canvas, nearest or smooth; places on grids of different size.

import { decodeBytes, decodeFloats } from "./api.js";
import { TABLES, paint } from "./colours.js";

const SMOOTH_PX = 288; // the longer side of a smoothly drawn map

/**
 * A map as the server sends it: {grid: [h, w], kind: "rgb" | "scalar", data, missing}.
 *
 * Returns {h, w, kind, values, low, high, unit, note}; values are bytes (h * w * 3) or floats (h * w), and
 * `there` says of each patch whether the teacher has it (codes may keep a subset).
 */
export function decoded(answer) {
  const [h, w] = answer.grid;
  const rgb = answer.kind === "rgb";
  const values = rgb ? decodeBytes(answer.data) : decodeFloats(answer.data);
  const missing = answer.missing ? decodeBytes(answer.missing) : null;
  const there = Uint8Array.from({ length: h * w }, (_, at) => (missing?.[at] || (!rgb && Number.isNaN(values[at])) ? 0 : 1));
  const { low, high, unit, note } = answer;
  return { h, w, kind: rgb ? "rgb" : "scalar", values, there, low, high, unit, note, colours: "viridis" };
}

/** A map of cosines: its own colours, and the scale of all maps from 0 to 1, or its own range. */
export function cosineMap(answer, range) {
  const map = decoded({ kind: "scalar", ...answer });
  const known = map.values.filter((value) => !Number.isNaN(value));
  const own = range === "own" && known.length > 0;
  return {
    ...map,
    colours: "magma",
    low: own ? known.reduce((a, b) => Math.min(a, b)) : 0,
    high: own ? known.reduce((a, b) => Math.max(a, b)) : 1,
    unit: "cosine",
  };
}

/** Draw a map; the canvas takes as many pixels as the drawing needs and is stretched by the style sheet. */
export function draw(canvas, map, drawing) {
  const factor = drawing === "nearest" ? 1 : Math.max(1, Math.round(SMOOTH_PX / Math.max(map.h, map.w)));
  const [height, width] = [map.h * factor, map.w * factor];
  canvas.width = width;
  canvas.height = height;
  canvas.dataset.drawing = drawing;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const across = weights(width, map.w, factor);
  const down = weights(height, map.h, factor);
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) pixel(image.data, 4 * (y * width + x), map, down, across, y, x);
  }
  context.putImageData(image, 0, 0);
}

/** For each drawn line the two lines of patches around it, and the share of the second. */
function weights(length, patches, factor) {
  const [first, second, share] = [new Uint16Array(length), new Uint16Array(length), new Float32Array(length)];
  for (let at = 0; at < length; at += 1) {
    const place = Math.max(0, Math.min(patches - 1, (at + 0.5) / factor - 0.5));
    first[at] = Math.floor(place);
    second[at] = Math.min(patches - 1, first[at] + 1);
    share[at] = place - first[at];
  }
  return { first, second, share };
}

const sum = new Float32Array(3);

/** One drawn pixel: the mean of up to four patches by distance; missing patches weigh nothing. */
function pixel(bytes, at, map, down, across, y, x) {
  let total = 0;
  sum.fill(0);
  for (let corner = 0; corner < 4; corner += 1) {
    const [lower, right] = [corner >> 1, corner & 1];
    const weight = (lower ? down.share[y] : 1 - down.share[y]) * (right ? across.share[x] : 1 - across.share[x]);
    const patch = (lower ? down.second[y] : down.first[y]) * map.w + (right ? across.second[x] : across.first[x]);
    if (weight === 0 || !map.there[patch]) continue;
    total += weight;
    if (map.kind === "scalar") sum[0] += weight * map.values[patch];
    else for (let channel = 0; channel < 3; channel += 1) sum[channel] += weight * map.values[3 * patch + channel];
  }
  if (total < 0.5) return; // transparent: more of it is missing than known
  if (map.kind === "scalar") paint(bytes, at, sum[0] / total, map.low, map.high, TABLES[map.colours]);
  else {
    for (let channel = 0; channel < 3; channel += 1) bytes[at + channel] = sum[channel] / total;
    bytes[at + 3] = 255;
  }
}

/** The patch of a grid [h, w] under a point of the picture, both coordinates from 0 to 1. */
export function patchAt(x, y, [h, w]) {
  const column = Math.max(0, Math.min(w - 1, Math.floor(x * w)));
  const row = Math.max(0, Math.min(h - 1, Math.floor(y * h)));
  return row * w + column;
}

/** The same place on another grid: the patch in which a patch's centre lies. */
export function onGrid(patch, [h, w], grid) {
  return patchAt(((patch % w) + 0.5) / w, (Math.floor(patch / w) + 0.5) / h, grid);
}

/** All patches of the rectangle between two. */
export function rectangle(a, b, [, w]) {
  const [left, right] = [Math.min(a % w, b % w), Math.max(a % w, b % w)];
  const [top, bottom] = [Math.min(Math.floor(a / w), Math.floor(b / w)), Math.max(Math.floor(a / w), Math.floor(b / w))];
  const patches = [];
  for (let row = top; row <= bottom; row += 1) {
    for (let column = left; column <= right; column += 1) patches.push(row * w + column);
  }
  return patches;
}

/** The outline of chosen patches as an SVG path, in units of patches: only edges to patches that are not chosen. */
export function outline(patches, [h, w]) {
  const chosen = new Set(patches.filter((patch) => patch >= 0 && patch < h * w));
  let path = "";
  for (const patch of chosen) {
    const [x, y] = [patch % w, Math.floor(patch / w)];
    if (!chosen.has(patch - w)) path += `M${x} ${y}h1`;
    if (!chosen.has(patch + w)) path += `M${x} ${y + 1}h1`;
    if (x === 0 || !chosen.has(patch - 1)) path += `M${x} ${y}v1`;
    if (x === w - 1 || !chosen.has(patch + 1)) path += `M${x + 1} ${y}v1`;
  }
  return path;
}

/** The numbers of a selection on another grid, each once. */
export const selectionOn = (patches, from, to) => [...new Set(patches.map((patch) => onGrid(patch, from, to)))];
