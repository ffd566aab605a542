/** Tokens that hold a text, and words that do. */

import { type Axis, type Description, type Layer, extent, indexAt, position } from "../description";

import { wordOf } from "../made/description";

/** A run of indices, both ends inclusive: a token, or the tokens of a word. */
export type Match = readonly [first: number, last: number];

/** Where a text stands among an axis's tokens; a number is a position too. Letters of any case are the same. */
export function matches(description: Description, layer: Layer, axis: Axis, wanted: string): Match[] {
  const text = folded(wanted.trim());
  if (text === "") return [];
  const list = axis === "query" ? layer.query_labels : layer.key_labels;
  const words = axis === "query" ? layer.query_words : layer.key_words;
  const tokens = list === null ? [] : description.labels[list].slice(0, extent(layer, axis));
  const found = words === undefined ? within(tokens, text) : ofWords(tokens, description.numbers![words], text);
  if (/^-?\d{1,15}$/.test(text)) {
    const index = indexAt(layer, axis, Number(text));
    const there = position(layer, axis, index) === Number(text) && !found.some(([first]) => first === index);
    if (there) return [[index, index], ...found].sort((a, b) => a[0] - b[0]) as Match[];
  }
  return found;
}

/** Runs of tokens whose text, one after another, holds what is wanted. */
function within(tokens: readonly string[], wanted: string): Match[] {
  const spaced = tokens.some((token, i) => i > 0 && token.startsWith(" "));
  const found: Match[] = [];
  if (!spaced) {
    for (const [i, token] of tokens.entries()) if (folded(token).includes(wanted)) found.push([i, i]);
    return found;
  }
  // A word of several tokens: the space before a token says where words end.
  const starts: number[] = [];
  let text = "";
  for (const token of tokens) {
    starts.push(text.length);
    text += folded(token);
  }
  starts.push(text.length);
  let token = 0;
  for (let at = text.indexOf(wanted); at >= 0; at = text.indexOf(wanted, at + 1)) {
    while (starts[token + 1] <= at) token++;
    let last = token;
    while (starts[last + 1] < at + wanted.length) last++;
    if (found.length === 0 || found[found.length - 1][0] !== token || found[found.length - 1][1] !== last) found.push([token, last]);
  }
  return found;
}

/** Tokens that hold what is wanted, words of several that do, and runs of words. */
function ofWords(tokens: readonly string[], edges: readonly number[], wanted: string): Match[] {
  if (/\s/.test(wanted)) {
    const words = edges.slice(0, -1).map((first, i) => ` ${wordOf(tokens.slice(first, edges[i + 1])).trim()}`);
    return within(words, wanted).map(([first, last]) => [edges[first], edges[last + 1] - 1]);
  }
  const found: Match[] = [];
  for (const [i, first] of edges.slice(0, -1).entries()) {
    const part = tokens.slice(first, edges[i + 1]);
    const alone = part.flatMap((token, n): Match[] => (folded(token).includes(wanted) ? [[first + n, first + n]] : []));
    if (alone.length > 0) found.push(...alone);
    else if (folded(wordOf(part)).includes(wanted)) found.push([first, first + part.length - 1]);
  }
  return found;
}

/** As texts are compared. */
function folded(text: string): string {
  return text.normalize("NFC").toLowerCase();
}

/** Every index that a match covers. */
export function covered(found: readonly Match[]): Set<number> {
  const indices = new Set<number>();
  for (const [first, last] of found) for (let i = first; i <= last; i++) indices.add(i);
  return indices;
}

/** The match after an index, or before it, around the end. */
export function next(found: readonly Match[], from: number | null, step: 1 | -1): Match | null {
  if (found.length === 0) return null;
  if (from === null) return step > 0 ? found[0] : found[found.length - 1];
  const ahead = step > 0 ? found.find(([first]) => first > from) : [...found].reverse().find(([first]) => first < from);
  return ahead ?? (step > 0 ? found[0] : found[found.length - 1]);
}

