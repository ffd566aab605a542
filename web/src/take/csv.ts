/** Tables as text: RFC 4180, numbers in full. */

export type Field = string | number | null;

/** Rows as CSV, the first the names. */
export function csv(rows: Iterable<readonly Field[]>): string {
  let text = "";
  for (const row of rows) text += `${row.map(field).join()}\r\n`;
  return text;
}

function field(value: Field): string {
  if (value === null) return "";
  if (typeof value === "number") return Number.isNaN(value) ? "" : number(value);
  return /[",\r\n]/.test(value) ? `"${value.replaceAll('"', '""')}"` : value;
}

/** The shortest text of a float32 that is that float32 again. */
function number(value: number): string {
  if (Number.isInteger(value) && Math.abs(value) < 1e15) return `${value}`;
  for (let digits = 6; digits < 9; digits++) {
    const text = Number(value.toPrecision(digits));
    if (Math.fround(text) === Math.fround(value)) return `${text}`;
  }
  return `${value}`;
}
