// The server's answers: one place for the token, errors as one line, remembered answers, and those in an exported file.

import { search } from "./state.js";

const REMEMBERED = 300;
const answers = new Map(); // address -> promise of the answer, oldest first
const inlined = readInlined();
let waiting = 0;
const watchers = [];

/** The answers that an exported file has in it, or null. */
function readInlined() {
  const node = document.getElementById("offline");
  if (node === null) return null;
  const { search: seen, answers: known, pictures } = JSON.parse(node.textContent);
  return { search: seen, answers: respelled(known), pictures: respelled(pictures) };
}

/** The same entries under the spelling that `address` gives their keys. */
function respelled(entries) {
  return Object.fromEntries(Object.entries(entries).map(([key, value]) => {
    const [path, query] = key.split("?");
    return [address(path, Object.fromEntries(new URLSearchParams(query ?? ""))), value];
  }));
}

/** What an exported file is of, or null on a page from a server. */
export const offline = () => inlined;

/** The one spelling of a request: keys in order, empty values left out. */
function address(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const key of Object.keys(parameters).sort()) {
    const value = parameters[key];
    if (value !== "" && value !== null && value !== undefined) query.set(key, String(value));
  }
  const text = query.toString();
  return text === "" ? path : `${path}?${text}`;
}

const token = () => new URLSearchParams(search()).get("token");

/**
 * Ask the server for JSON.
 *
 * Throws an Error with the server's one line; an AbortError when `signal` ends it. With `remember`, the same question
 * is asked once (stored features do not change while they are looked at).
 */
export function ask(path, parameters = {}, { signal, remember = true } = {}) {
  const where = address(path, parameters);
  if (inlined !== null) return fromFile(where);
  if (remember && answers.has(where)) {
    const known = answers.get(where);
    answers.delete(where);
    answers.set(where, known);
    return known;
  }
  const promise = send(where, signal);
  if (remember) {
    const forget = () => answers.get(where) === promise && answers.delete(where);
    answers.set(where, promise);
    promise.catch(forget);
    signal?.addEventListener("abort", forget, { once: true }); // whoever asks next must not get this one's end
    while (answers.size > REMEMBERED) answers.delete(answers.keys().next().value);
  }
  return promise;
}

async function fromFile(where) {
  const answer = inlined.answers[where];
  if (answer === undefined) throw new Error("this file has the data of one view; for others open the cache with codistill view");
  if (answer.error) throw new Error(answer.error);
  return answer;
}

/** A file that the server makes, as a Blob. */
export const file = (path, parameters) => send(address(path, parameters), undefined, async (response) =>
  (response.ok ? response.blob() : understood(response, await response.text())));

const json = async (response) => understood(response, await response.text());

async function send(where, signal, read = json) {
  const headers = token() === null ? {} : { "X-Codistill-Token": token() };
  count(1);
  try {
    return await read(await fetch(where, { signal, headers }));
  } catch (error) {
    if (error.name !== "TypeError") throw error;
    throw new Error("no answer from the server: is `codistill view` still running, and the tunnel open?");
  } finally {
    count(-1);
  }
}

function understood(response, text) {
  let answer;
  try {
    answer = JSON.parse(text);
  } catch {
    throw new Error(`the server answered ${response.status} with no JSON: ${text.slice(0, 120)}`);
  }
  if (!response.ok) throw new Error(answer.error ?? `the server answered ${response.status}`);
  return answer;
}

/** The address of a picture for an `<img>`, which can send no header. */
export function picture(path, parameters) {
  const where = address(path, parameters);
  if (inlined !== null) return inlined.pictures[where] ?? "data:,";
  return token() === null ? where : address(path, { ...parameters, token: token() });
}

/** Call `watcher` with the number of requests under way, each time it changes. */
export function watch(watcher) {
  watchers.push(watcher);
}

function count(change) {
  waiting += change;
  watchers.forEach((watcher) => watcher(waiting));
}

/** The overview, which every page needs: names of datasets, arrays, teachers and runs. */
export function overview({ again = false } = {}) {
  if (again) answers.clear(); // the cache may be another by now
  return ask("api/overview");
}

/** The group's and columns' names of the datasets that `from` means: one, or all. */
export function chosenDatasets(facts, from) {
  return from === "" ? facts.datasets : facts.datasets.filter((dataset) => dataset.name === from);
}

const bytesOf = (text) => Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));

export const decodeBytes = (text) => bytesOf(text);

/** base64 of little-endian float32, as on every machine that runs a browser. */
export const decodeFloats = (text) => new Float32Array(bytesOf(text).buffer);
