/** What makes a score: the products of a query and a key, one a dimension, and how far each of these numbers may be off. */

import type { Description, Layer } from "./description";
import { countText } from "./numbers";

/**
 * A part of a score: one dimension of it, or two that turn together, of which q and k are the lengths. `by` says how far
 * each number may be from what the layer had.
 */
export interface Product {
  dimension: number; // the first
  other?: number; // the second of a pair
  frequency?: number | null; // radians a position that the pair turns; null: too slow to be told
  q: number;
  k: number;
  product: number; // q * k * scale
  by: { q: number; k: number; product: number };
}

const ROUNDING = 2 ** -22; // of float32: of a number, of the step it is counted in, and of what they make

/** How far the numbers of a vector may be from what was written: half a step of its codes. */
function codesWithin(layer: Layer, vector: Float32Array): number {
  let most = 0;
  for (const value of vector) most = Math.max(most, Math.abs(value));
  const codes = { q12: 2047, q16: 32_767 }[layer.q?.dtype as string];
  return most * (ROUNDING + (codes === undefined ? 0 : 0.5 / codes));
}

/** The products of a query's vector and a key's, in the order of dimensions. */
export function productsOf(layer: Layer, q: Float32Array, k: Float32Array): Product[] {
  const { scale } = layer;
  const by = { q: codesWithin(layer, q), k: codesWithin(layer, k) };
  return Array.from(q, (of, dimension) => {
    const product = of * k[dimension] * scale;
    const off = Math.abs(scale) * (Math.abs(of) * by.k + Math.abs(k[dimension]) * by.q + by.q * by.k);
    return { dimension, q: of, k: k[dimension], product, by: { ...by, product: off + Math.abs(product) * ROUNDING } };
  });
}

/** What turns together as one, each pair the sum of its two products; then the dimensions that don't turn, each by itself. */
export function inPairs(products: readonly Product[], { numbers }: Description, { rotary }: Layer): Product[] {
  if (!rotary || products.length === 0) return [...products];
  const flat = numbers![rotary.pairs];
  const turning = new Set(flat);
  const pairs = rotary.frequencies.map((frequency, i): Product => {
    const [a, b] = [products[flat[2 * i]], products[flat[2 * i + 1]]];
    return {
      dimension: a.dimension,
      other: b.dimension,
      frequency,
      q: Math.hypot(a.q, b.q),
      k: Math.hypot(a.k, b.k),
      product: a.product + b.product,
      by: { q: Math.hypot(a.by.q, b.by.q), k: Math.hypot(a.by.k, b.by.k), product: a.by.product + b.by.product },
    };
  });
  return [...pairs, ...products.filter(({ dimension }) => !turning.has(dimension))];
}

/** What a part is called: its dimension, or both. */
export function partName({ dimension, other }: Product): string {
  return other === undefined ? `${dimension}` : `${dimension}, ${other}`;
}

/** After how many tokens a pair has turned once, to three digits; null where it doesn't, or that isn't known. */
export function wavelengthOf({ frequency }: Product): number | null {
  return frequency ? Number(((2 * Math.PI) / Math.abs(frequency)).toPrecision(3)) : null;
}

/** The same in words. */
export function wavelengthText(part: Product): string {
  const tokens = wavelengthOf(part);
  if (tokens === null) return part.frequency === null ? "too long to be told" : "does not turn";
  return `${tokens < 100 ? tokens : countText(tokens)} tokens`;
}

/** A sum of products, and how far it may be off. */
export interface Total {
  value: number;
  by: number;
}

/** The sum of products, in order: after each. */
export function totals(products: readonly Product[]): Total[] {
  let [value, by] = [0, 0];
  return products.map((one) => {
    value += one.product;
    by += one.by.product;
    return { value, by };
  });
}

/**
 * The sum of all. Where a logit is this sum and nothing else, it was held against the exact one, and is known better than
 * its parts.
 */
export function totalOf(layer: Layer, products: readonly Product[], logits: number): Total {
  const { value, by } = totals(products)[products.length - 1] ?? { value: 0, by: 0 };
  const alone = layer.softcap === null && layer.alibi === null && layer.bias === null;
  return { value, by: alone ? Math.min(by, logits) : by };
}

/** Products in order, or the largest by size first. */
export function sorted(products: readonly Product[], sort: "order" | "size"): Product[] {
  const all = [...products];
  return sort === "size" ? all.sort((a, b) => Math.abs(b.product) - Math.abs(a.product)) : all;
}

/** The length of a vector, and how far it may be off. */
function norm(vector: readonly number[], by: number): Total {
  return { value: Math.hypot(...vector), by: by * Math.sqrt(vector.length) };
}

/** What a score is made of as lengths and an angle: |q| |k| cosine. The cosine is null where a length is 0. */
export function lengthsOf(products: readonly Product[]): { q: Total; k: Total; cosine: Total | null } {
  const of = (which: "q" | "k"): Total => norm(products.map((one) => one[which]), products[0]?.by[which] ?? 0);
  const [q, k] = [of("q"), of("k")];
  if (q.value === 0 || k.value === 0) return { q, k, cosine: null };
  let [dot, by] = [0, 0];
  for (const one of products) {
    dot += one.q * one.k;
    by += Math.abs(one.q) * one.by.k + Math.abs(one.k) * one.by.q + one.by.q * one.by.k;
  }
  const value = dot / (q.value * k.value);
  return { q, k, cosine: { value, by: by / (q.value * k.value) + Math.abs(value) * (q.by / q.value + k.by / k.value) } };
}
