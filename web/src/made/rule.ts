/** What is left out of maps, and what is seen as one: what is asked for, and which keys and queries that is. */

import { type Description, type Layer, hasWeights, isOneText, label, positionName } from "../description";
import type { Window } from "../questions";
import type { Out, State, Together } from "../state";
import { MOST_MADE } from "./source";

/** What a state asks to be made of maps. */
export interface Rule {
  out: readonly Out[];
  again: boolean; // whether rows are made to sum to 1 again
  words: boolean;
  sides: readonly [from: number, to: number] | null; // sentences
  together: Together | null;
  logits: boolean; // of scores; then nothing else is asked for
}

/** Whether maps can be made of a layer's: all its weights are there, and not too many. */
export function canBeMade(layer: Layer): boolean {
  return Math.max(layer.queries, layer.keys) <= MOST_MADE && hasWeights(layer);
}

/** What is asked for of a layer; null where nothing is, or it can't be made of it. */
export function ruleOf(state: State, layer: Layer): Rule | null {
  if (!canBeMade(layer)) return null;
  const words = state.words && layer.query_words !== undefined && layer.key_words !== undefined;
  const none = { out: [], again: false, words: false, sides: null, together: null };
  if (state.logits && !layer.given && layer.kept === undefined) return { ...none, logits: true };
  const rule = { out: state.out, again: state.again, words, sides: state.sides, together: state.together, logits: false };
  return rule.together !== null || rule.out.length > 0 || rule.again || rule.words || rule.sides !== null ? rule : null;
}

const SPECIAL = /^\s*(\[[A-Z0-9_]+\]|<\|[^<>]*\|>|<\/?[a-z_0-9]+>)\s*$/;
const PUNCTUATION = /^\s*[\p{P}\p{S}]+\s*$/u;

/** The keys of one kind, ascending. Special tokens are those that Python knows, else those that look like one. */
export function keysOf(kind: Out, description: Description, layer: Layer): number[] {
  if (kind === "first") return [0];
  const known = layer.special_keys === undefined ? null : description.numbers![layer.special_keys];
  const all = Array.from({ length: layer.keys }, (_, key) => key);
  const special = (key: number): boolean => {
    const token = label(description, layer, "key", key);
    return known ? known.includes(key) : token !== null && SPECIAL.test(token);
  };
  if (kind === "special") return known ?? all.filter(special);
  return all.filter((key) => {
    const token = label(description, layer, "key", key);
    return token !== null && PUNCTUATION.test(token) && !special(key);
  });
}

/** The sentences of a text: the runs of tokens between special ones, where there are two or more. */
export function sentencesOf(description: Description, layer: Layer): Window[] {
  if (!isOneText(layer)) return [];
  const special = new Set(keysOf("special", description, layer));
  const found: [number, number][] = [];
  for (let key = 0; key < layer.keys; key++) {
    if (special.has(key)) continue;
    const last = found[found.length - 1];
    if (last && last[1] === key) last[1] = key + 1;
    else found.push([key, key + 1]);
  }
  return found.length > 1 ? found : [];
}

/** The keys and the queries that a rule leaves out. */
export function leftOut(rule: Rule, description: Description, layer: Layer): { keys: Set<number>; queries: Set<number> } {
  const keys = new Set(rule.out.flatMap((kind) => keysOf(kind, description, layer)));
  const queries = new Set<number>();
  const sentences = sentencesOf(description, layer);
  const [from, to] = rule.sides ?? [-1, -1];
  if (sentences[from] && sentences[to]) {
    for (let key = 0; key < layer.keys; key++) if (key < sentences[to][0] || key >= sentences[to][1]) keys.add(key);
    for (let query = 0; query < layer.queries; query++) {
      if (query < sentences[from][0] || query >= sentences[from][1]) queries.add(query);
    }
  }
  return { keys, queries };
}

/** The edges of words of an axis, of indices: each begins at one, the last ends at the last. */
export function edgesOf(axis: "query" | "key", rule: Rule, description: Description, layer: Layer): readonly number[] {
  const place = axis === "query" ? layer.query_words : layer.key_words;
  const size = axis === "query" ? layer.queries : layer.keys;
  if (!rule.words || place === undefined) return Array.from({ length: size + 1 }, (_, i) => i);
  return description.numbers![place];
}

/** Indices as `--hide` takes them: 0,3-5. */
export function rangesOf(indices: Iterable<number>): string {
  const sorted = [...indices].sort((a, b) => a - b);
  const parts: string[] = [];
  for (let i = 0; i < sorted.length; ) {
    let end = i;
    while (end + 1 < sorted.length && sorted[end + 1] === sorted[end] + 1) end++;
    parts.push(end === i ? `${sorted[i]}` : `${sorted[i]}-${sorted[end]}`);
    i = end + 1;
  }
  return parts.join();
}

/** What a sentence is called: its first and its last token. */
export function sentenceName(description: Description, layer: Layer, [first, end]: Window): string {
  const last = end - first === 1 ? "" : ` \u2026 ${positionName(description, layer, "key", end - 1)}`;
  return `${positionName(description, layer, "key", first)}${last}`;
}
