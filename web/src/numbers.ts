/** Numbers as people read them. */

/** How far a number of the page may be from what the formula gives: in any place, or as a share of it. */
export interface Within {
  by: number; // at most this far
  share: number; // and at most this share of it: value * exp(-share) to value * exp(share)
}

/** What numbers are rounded to on their way here. */
export const FLOAT32: Within = { by: Number.POSITIVE_INFINITY, share: 2 ** -23 };

/** The least and the most that a positive number may be. */
function span(value: number, { by, share }: Within): [number, number] {
  return [Math.max(0, value - by, value * Math.exp(-share)), Math.min(value + by, value * Math.exp(share))];
}

/**
 * The most digits, among the given ways to write a number, that are right wherever in its span it is. Null where none
 * are.
 */
function sure(low: number, high: number, ways: readonly ((value: number) => string)[]): string | null {
  for (const way of ways) if (way(low) === way(high)) return way(low);
  return null;
}

const FIXED = [4, 3, 2, 1].map((digits) => (value: number) => value.toFixed(digits));
const SMALL = [2, 1, 0].map((digits) => (value: number) => value.toExponential(digits));

/** A weight: four decimals, or three digits where those would be zeros; fewer where fewer are known to be right. */
export function weightText(value: number, within: Within): string {
  if (Number.isNaN(value)) return "hidden";
  if (value < 0) return differenceText(value, within);
  if (value === 0) return within.share === Number.POSITIVE_INFINITY ? `< ${roundedUp(within.by)}` : "0";
  const [low, high] = span(value, within);
  return sure(low, high, value >= 0.001 ? FIXED : SMALL) ?? `< ${roundedUp(high)}`;
}

/** A difference below 0: as many decimals as are right. */
function differenceText(value: number, { by }: Within): string {
  const [low, high] = [value - by, value + by];
  return (sure(low, high, FIXED) ?? `within \u00b1${roundedUp(Math.max(-low, high))}`).replace(/^-0(\.0*)?$/, "0").replace("-", "\u2212");
}

/** A number of one digit that is larger. */
function roundedUp(value: number): string {
  const decade = 10 ** Math.floor(Math.log10(value));
  return `${Number(((Math.floor(value / decade) + 1) * decade).toPrecision(1))}`;
}

/** A score, known to within `by`. */
export function logitText(value: number, by = 0): string {
  if (value === Number.NEGATIVE_INFINITY) return "hidden";
  const ways = [3, 2, 1, 0].map((digits) => (one: number) => (Math.abs(value) < 1e4 ? one.toFixed(digits) : one.toExponential(digits)));
  const text = sure(value - by, value + by, ways) ?? `\u2248 ${value.toFixed(by < 1 ? 1 : 0)}`;
  return text.replace(/-(0(\.0*)?)$/, "$1").replace("-", "\u2212");
}

/** A share of a whole, known to be between two, as a percentage that is not rounded to what would be all or nothing. */
export function shareText(share: number, [low, high]: readonly [number, number] = [share, share]): string {
  if (share <= 0) return "0 %";
  if (share >= 1) return "100 %";
  if (high < 0.001) return "< 0.1 %";
  if (low > 0.999) return "> 99.9 %";
  const ways = [1, 0].map((digits) => (one: number) => (100 * one).toFixed(digits));
  const known = sure(low, high, ways);
  return known === null ? `${Math.floor(100 * low)}\u2013${Math.ceil(100 * high)} %` : `${known} %`;
}

/** A sum of weights: what it is, and of how many. */
export interface Sum {
  sum: number;
  count: number;
}

/** The least and the most that a sum of weights may be. */
export function sumSpan({ sum, count }: Sum, { by, share }: Within): [number, number] {
  if (sum === 0) return [0, share === Number.POSITIVE_INFINITY && count > 0 ? count * by : 0];
  return span(sum, { by: count * by, share });
}

/** The least and the most that one sum's share of both may be. */
export function shareSpan(part: Sum, rest: Sum, within: Within): [number, number] {
  const [one, other] = [sumSpan(part, within), sumSpan(rest, within)];
  const of = (a: number, b: number): number => (a + b > 0 ? a / (a + b) : 0);
  return [of(one[0], other[1]), of(one[1], other[0])];
}

/** An end of a color scale, short. */
export function tickText(value: number): string {
  if (value === 0) return "0";
  if (value >= 0.01 && value < 1000) return `${Number(value.toPrecision(2))}`;
  return `${Number(value.toPrecision(2)).toExponential()}`.replace("e-", "e\u2212").replace("e+", "e");
}

/** A count or position with its thousands apart. */
export function countText(value: number): string {
  return value.toLocaleString("en-US").replace("-", "\u2212");
}

/** A position as it stands in names and fields. */
export function positionText(value: number): string {
  return `${value}`.replace("-", "\u2212");
}

/** A range of positions, both ends inclusive. */
export function rangeText(first: number, last: number): string {
  return first === last ? countText(first) : `${countText(first)}\u2013${countText(last)}`;
}

/** A round step of at least `least`: 1, 2, 5, 10 ... */
export function roundStep(least: number): number {
  if (least <= 1) return 1;
  const decade = 10 ** Math.floor(Math.log10(least));
  for (const factor of [1, 2, 5]) if (factor * decade >= least) return factor * decade;
  return 10 * decade;
}
