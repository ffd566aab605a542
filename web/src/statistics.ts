/** The numbers of heads: what Python counted of each, how they are said, and heads in an order of theirs. */

import type { Kind } from "./answers";
import type { Description, Statistic } from "./description";
import type { OfHead } from "./questions";
import type { Rank, State } from "./state";

/** What of a state asks for numbers; nothing of maps that have none: those that are made here. */
export function askedFor({ statistics }: Description, { stat, rank, role }: State): Pick<State, "stat" | "rank" | "role"> {
  return statistics ? { stat, rank, role } : { stat: null, rank: "order", role: null };
}

/** A head's number of each statistic, null where there is none; its tag, and the statistic that gave it. */
export type Numbers = Record<string, number | string | null>;

/** A head's numbers; null where they would take a pass of a minute. */
export const NUMBERS: Kind<OfHead, Numbers | null> = {
  name: "statistics",
  bytes: () => 1000,
  ask: (source, { layer, head }, signal) => source.statistics(layer, head, signal),
};

/** A statistic's number, as it is known: four digits. */
export function numberText(value: number | string | null | undefined): string {
  if (value === null || value === undefined) return "\u2013";
  if (typeof value === "string") return value;
  const size = Math.abs(value);
  const text = size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(3) : Number.isInteger(value) ? `${value}` : value.toPrecision(4);
  return text.replace("-", "\u2212");
}

/** A statistic's name as people read it. */
export function statisticName(name: string): string {
  return name.replaceAll("_", " ");
}

/** What a statistic is counted in, where that needs saying. */
export function unitOf({ unit }: Statistic): string {
  return unit === "weight" || unit === "norm" ? "" : unit === "share" ? "of its most" : unit;
}

/** The same of every head of a layer: one answer, however many heads. */
export const LAYER_NUMBERS: Kind<{ layer: number }, (Numbers | null)[]> = {
  name: "statistics of a layer",
  bytes: (all) => 1000 * all.length,
  ask: (source, { layer }, signal) =>
    Promise.all(Array.from({ length: source.description.layers[layer].heads }, (_, head) => source.statistics(layer, head, signal))),
};

export interface Counted extends OfHead {
  numbers: Numbers | null; // null: not known, or not yet
}

/** One heading and the heads under it. */
export interface Group {
  name: string | null;
  heads: Counted[];
}

/** Heads by a number of theirs, or by what they are in a word; those without one come last, in their own order. */
export function ranked(heads: readonly Counted[], how: { rank: Rank; stat: string; tags: readonly string[] }): Group[] {
  const value = ({ numbers }: Counted, name: string): number | null => {
    const found = numbers?.[name];
    return typeof found === "number" ? found : null;
  };
  const by = (name: string, sign: 1 | -1) => (a: Counted, b: Counted) => {
    const [one, other] = [value(a, name), value(b, name)];
    if (one === null || other === null) return Number(one === null) - Number(other === null);
    return sign * (one - other);
  };
  switch (how.rank) {
    case "order":
      return [{ name: null, heads: [...heads] }];
    case "most":
      return [{ name: null, heads: [...heads].sort(by(how.stat, -1)) }];
    case "least":
      return [{ name: null, heads: [...heads].sort(by(how.stat, 1)) }];
    case "role": {
      const of = (tag: string) => heads.filter(({ numbers }) => numbers?.tag === tag).sort(by("tag_score", -1));
      const groups = how.tags.map((name) => ({ name, heads: of(name) }));
      const rest = heads.filter(({ numbers }) => numbers === null);
      return [...groups, { name: "not counted", heads: rest }].filter((group) => group.heads.length > 0);
    }
  }
}

/** The least and the most of a number among heads; null where none has one. */
export function rangeOf(heads: readonly Counted[], name: string): [number, number] | null {
  const values = heads.flatMap(({ numbers }) => (typeof numbers?.[name] === "number" ? [numbers[name] as number] : []));
  return values.length === 0 ? null : [Math.min(...values), Math.max(...values)];
}
