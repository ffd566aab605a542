/** Numbers as people read them. */

/** A weight: four decimals, or three digits where those would be zeros. */
export function weightText(value: number): string {
  if (Number.isNaN(value)) return "hidden";
  if (value === 0 || value >= 0.001) return value.toFixed(4);
  return value.toExponential(2);
}

export function logitText(value: number): string {
  if (value === Number.NEGATIVE_INFINITY) return "hidden";
  return (Math.abs(value) < 1e4 ? value.toFixed(3) : value.toExponential(3)).replace("-", "\u2212");
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
