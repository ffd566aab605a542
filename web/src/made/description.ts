/** A page's description of maps that are made of its own. */

import { type Description, type Layer, type Origin, layersOf } from "../description";
import type { Together } from "../state";
import { type Rule, edgesOf, leftOut, rangesOf } from "./rule";

/** How many levels a map has whose finest has a cell a weight, and whose coarsest is one tile. */
function levelsOf(queries: number, keys: number): number {
  return Math.max(1, Math.ceil(Math.log2(Math.max(queries, keys) / 256)) + 1);
}

/** The description of the layers that a rule makes of a page's. */
export function madeDescription(description: Description, ruleOf: (layer: Layer) => Rule | null): Description {
  const labels = [...description.labels];
  const layers = description.layers.map((layer, index): Layer => {
    const rule = ruleOf(layer);
    if (rule === null) return layer;
    if (rule.logits) return ofScores(layer);
    const out = leftOut(rule, description, layer);
    const said = [
      layer.pattern,
      ...(rule.together === null ? [] : [rule.together.replace("-", " of ")]),
      ...(rule.words ? ["words"] : []),
      ...(rule.sides ? [`sentence ${rule.sides[0] + 1} to sentence ${rule.sides[1] + 1}`] : []),
      ...(rule.out.length > 0 ? [`${out.keys.size} ${out.keys.size === 1 ? "key" : "keys"} left out`] : []),
      ...(rule.again ? ["renormalized"] : []),
    ];
    const edges = { query: edgesOf("query", rule, description, layer), key: edgesOf("key", rule, description, layer) };
    const [queries, keys] = [edges.query.length - 1, edges.key.length - 1];
    const wordsOf = (place: number | null, of: readonly number[]): number | null => {
      if (place === null || !rule.words) return place;
      const list = description.labels[place];
      const made = of.slice(0, -1).map((first, i) => wordOf(list.slice(first, of[i + 1])));
      const known = labels.findIndex((other, n) => n >= description.labels.length && other.join("\0") === made.join("\0"));
      return known >= 0 ? known : labels.push(made) - 1;
    };
    const shared = rule.again ? 2 : 1; // of a weight and of what is left of its row
    const { logs, weights, ...rest } = accuracyOf(rule, description, index);
    const plain = !rule.again && !rule.words;
    return {
      ...layer,
      queries,
      keys,
      query_labels: wordsOf(layer.query_labels, edges.query),
      key_labels: wordsOf(layer.key_labels, edges.key),
      positions: rule.words && layer.positions !== null ? { queries: 0, keys: 0 } : layer.positions, // words by their number
      pattern: said.join(", "),
      given: true,
      made: true,
      kept: undefined,
      ...(rule.words ? { global_keys: undefined, global_queries: undefined } : {}), // which are tokens
      ...(rule.together === null ? {} : { key_heads: undefined }),
      sinks: null,
      alibi: null,
      softcap: null,
      levels: levelsOf(queries, keys),
      accuracy: { weights: plain ? weights : null, logs: logs.map((one) => one * shared), ...rest },
      origin: layer.origin && originOf(layer.origin, rule, out, layersIn(description, index).map((one) => description.layers[one])),
    };
  });
  return { ...description, labels, layers, statistics: undefined };
}

/** The heads whose maps are seen as one with that of a head: of its layer, or of its number in layers of one size. */
export function partsOf(together: Together, description: Description, layer: number, head: number): { layer: number; head: number }[] {
  if (together.endsWith("heads")) {
    return Array.from({ length: description.layers[layer].heads }, (_, one) => ({ layer, head: one }));
  }
  return layersIn(description, layer).map((one) => ({ layer: one, head }));
}

/** The layers of a text that are of the size and the heads of one. */
function layersIn(description: Description, layer: number): number[] {
  const { layers } = description;
  const own = layers[layer];
  const alike = (one: Layer): boolean => one.queries === own.queries && one.keys === own.keys && one.heads === own.heads;
  return layersOf(description, own.text).filter((index) => alike(layers[index]));
}

/** How far numbers may be: of several maps as one, as far as the farthest. */
function accuracyOf({ together }: Rule, description: Description, index: number): Layer["accuracy"] {
  const { accuracy, heads } = description.layers[index];
  if (together === null) return accuracy;
  const most = (of: (layer: Layer, head: number) => number): number[] =>
    Array.from({ length: heads }, (_, head) =>
      Math.max(...partsOf(together, description, index, head).map((part) => of(description.layers[part.layer], part.head))),
    );
  return {
    weights: accuracy.weights && most((layer, head) => layer.accuracy.weights?.[head] ?? Number.POSITIVE_INFINITY),
    logs: most((layer, head) => layer.accuracy.logs[head]),
    logits: accuracy.logits,
    sides: accuracy.sides,
  };
}

/** A layer whose map is of scores, to both sides of 0. */
function ofScores(layer: Layer): Layer {
  const { origin, accuracy } = layer;
  const free = (text: string | null): boolean => text !== null && !/(--|\b)values\b/.test(text);
  return {
    ...layer,
    signed: true,
    unit: "score",
    made: true,
    given: true,
    pattern: `${layer.pattern}, scores`,
    levels: levelsOf(layer.queries, layer.keys),
    accuracy: { ...accuracy, weights: accuracy.logits, logs: accuracy.logits.map(() => Number.POSITIVE_INFINITY) },
    origin: origin && {
      ...origin,
      command: free(origin.command) ? `${origin.command} --values logits`.trim() : null,
      options: free(origin.options) ? [origin.options, 'values="logits"'].filter(Boolean).join(", ") : null,
    },
  };
}

/** A word of its tokens; what marks that one goes on is no part of it. */
export function wordOf(tokens: readonly string[]): string {
  return tokens.map((token, i) => (i > 0 ? token.replace(/^##/, "") : token)).join("");
}

/** The words that make it on the command line and in Python; null where they would say it twice, or not at all. */
function originOf(
  origin: Origin,
  rule: Rule,
  out: { keys: Set<number>; queries: Set<number> },
  layers: readonly Layer[],
): Origin {
  const shifted = [...out.keys].map((key) => key + origin.first[1]);
  const hide = rule.out.length > 0 ? rangesOf(shifted) : null;
  const taken = (text: string | null): boolean => text === null || /(--|\b)(hide|merge|spans|renormalize|rollout|mean|max)\b/.test(text);
  const [command, python] = [!taken(origin.command), !taken(origin.options)];
  const { together } = rule;
  const ofLayers = together?.endsWith("layers") ?? false;
  const sayable = rule.sides === null && !(rule.words && origin.cropped) && (together === null || origin.head);
  const of = `--layer ${layers.map(({ label }) => label).join()}`;
  const words = [ofLayers ? (origin.command ?? "").replace(/--layer \S+/, of) : (origin.command ?? "")];
  const options = origin.options ? [origin.options] : [];
  if (together !== null) {
    const [how, over] = together.split("-");
    words.push(`--${how} ${over}`);
    options.push(`${how}="${over}"`, ...(over === "heads" ? ["head=None"] : []));
  }
  if (rule.words) {
    words.push("--merge words");
    options.push('merge="words"');
  }
  if (hide !== null) {
    words.push(`--hide ${hide}`);
    options.push(`hide="${hide}"`);
  }
  if (rule.again) {
    words.push("--renormalize");
    options.push("renormalize=True");
  }
  return {
    ...origin,
    inputs: ofLayers ? `[${layers.map((one) => one.origin?.inputs).join(", ")}]` : origin.inputs,
    head: together === null || ofLayers,
    command: command && sayable ? words.filter((one) => one !== "").join(" ") : null,
    options: python && sayable ? options.join(", ") : null,
  };
}
