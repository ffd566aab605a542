/** The parts that make a score: as bars over the query's and the key's numbers, and as a table. */

import { css, diverging, gradient } from "../colors";
import { logitText } from "../numbers";
import { type Product, partName, sorted, totals, wavelengthOf, wavelengthText } from "../products";
import { useSize } from "../session";

/** The dimensions of a part. */
function titleOf(part: Product): string {
  return part.other === undefined ? `dimension ${part.dimension}` : `dimensions ${partName(part)}`;
}

/** A part in words. */
function saidOf(part: Product): string {
  const { q, k, product, by } = part;
  if (part.other === undefined) return `${titleOf(part)}: ${logitText(q, by.q)} \u00d7 ${logitText(k, by.k)} \u00d7 scale = ${logitText(product, by.product)}`;
  return `${titleOf(part)}, turns once in ${wavelengthText(part)}: ${logitText(product, by.product)}; lengths ${logitText(q, by.q)} and ${logitText(k, by.k)}`;
}

const HEIGHT = 230;
const STRIP = 16;

/** The largest of the parts' numbers, by size. */
function largestOf(parts: readonly Product[], pick: (part: Product) => number): number {
  return Math.max(...parts.map((part) => Math.abs(pick(part))), 1e-9);
}

export function Chart(props: { parts: readonly Product[]; dark: boolean }) {
  const { parts, dark } = props;
  const most = largestOf(parts, ({ product }) => product);
  const [mostQ, mostK] = [largestOf(parts, ({ q }) => q), largestOf(parts, ({ k }) => k)];
  const pairs = parts.some(({ other }) => other !== undefined);
  return (
    <figure class="qk-chart">
      <div class="qk-rows" aria-hidden="true">
        <span>
          <i>+{most.toPrecision(2)}</i>
          <i>product</i>
          <i>{`\u2212${most.toPrecision(2)}`}</i>
        </span>
        <span style={{ height: STRIP }}>query</span>
        <span style={{ height: STRIP }}>key</span>
        <span>dim</span>
        {pairs && <span title="How many tokens it takes a pair to turn once">turns in</span>}
      </div>
      <div class="qk-plot">
        <Bars parts={parts} most={most} />
        <Strip parts={parts} of="q" top={mostQ} dark={dark} />
        <Strip parts={parts} of="k" top={mostK} dark={dark} />
        <Names parts={parts} room={26} name={({ dimension }) => `${dimension}`} />
        {pairs && <Names parts={parts} room={72} name={compactWavelength} />}
      </div>
      <figcaption class="muted">
        <span class="key plus">raises the score</span> <span class="key minus">lowers it</span>
        <span class="qk-strips-key">
          {pairs ? "query and key (of a pair, its length)" : "query and key"}: {logitText(-1)} to 1 times{" "}
          <i style={{ background: gradient((share) => diverging(2 * share - 1, dark)) }} /> their largest, {logitText(mostQ, parts[0].by.q)} and{" "}
          {logitText(mostK, parts[0].by.k)}
        </span>
      </figcaption>
    </figure>
  );
}

/** A bar up or down from 0 for each part. */
function Bars(props: { parts: readonly Product[]; most: number }) {
  const { parts, most } = props;
  const width = 1000;
  const each = width / parts.length;
  const zero = HEIGHT / 2;
  return (
    <svg
      viewBox={`0 0 ${width} ${HEIGHT}`}
      preserveAspectRatio="none"
      role="img"
      aria-label={`Products of ${parts.length} ${parts[0].other === undefined ? "dimensions" : "pairs and dimensions"}; the largest by size is of ${titleOf(sorted(parts, "size")[0])}`}
    >
      {parts.map((part, i) => {
        const { dimension, product } = part;
        const height = (Math.abs(product) / most) * (zero - 4);
        return (
          <rect
            key={dimension}
            class={product < 0 ? "minus" : "plus"}
            x={i * each + each * 0.1}
            width={each * 0.8}
            y={product < 0 ? zero : zero - height}
            height={height}
          >
            <title>{saidOf(part)}</title>
          </rect>
        );
      })}
      <line class="zero" x1="0" x2={width} y1={zero} y2={zero} vector-effect="non-scaling-stroke" />
    </svg>
  );
}

/** The numbers of the query or of the key, a color each. */
function Strip(props: { parts: readonly Product[]; of: "q" | "k"; top: number; dark: boolean }) {
  const { parts, of, top, dark } = props;
  return (
    <div class="qk-strip" style={{ height: STRIP }} aria-hidden="true">
      {parts.map((part) => (
        <i
          key={part.dimension}
          title={`${of === "q" ? "query" : "key"}, ${titleOf(part)}: ${logitText(part[of], part.by[of])}`}
          style={{ background: css(diverging(part[of] / top, dark)) }}
        />
      ))}
    </div>
  );
}

/** What stands under the parts: of as many as there is room for, so many pixels each. */
function Names(props: { parts: readonly Product[]; room: number; name(part: Product): string }) {
  const { parts, room, name } = props;
  const [row, { width }] = useSize<HTMLDivElement>();
  const every = Math.max(1, Math.ceil(parts.length / Math.max(1, Math.min(32, width / room))));
  return (
    <div class="qk-dims" aria-hidden="true" ref={row}>
      {parts.map((part, i) => (
        <i key={part.dimension}>{i % every === 0 ? name(part) : ""}</i>
      ))}
    </div>
  );
}

const COMPACT = new Intl.NumberFormat("en", { notation: "compact", maximumSignificantDigits: 3 });

function compactWavelength(part: Product): string {
  const tokens = wavelengthOf(part);
  return tokens === null ? "" : COMPACT.format(tokens);
}

export function Table(props: { parts: readonly Product[] }) {
  const sums = totals(props.parts);
  const pairs = props.parts.some(({ other }) => other !== undefined);
  return (
    <details class="qk-table">
      <summary>
        All {props.parts.length} {pairs ? "pairs and dimensions" : "products"} as a table
      </summary>
      <table>
        <thead>
          <tr>
            <th scope="col">{pairs ? "dimensions" : "dimension"}</th>
            {pairs && <th scope="col">turns once in</th>}
            <th scope="col">{pairs ? "length of the query" : "query"}</th>
            <th scope="col">{pairs ? "of the key" : "key"}</th>
            <th scope="col">
              {pairs && "sum of "}query {"\u00d7"} key {"\u00d7"} scale
            </th>
            <th scope="col">sum so far</th>
          </tr>
        </thead>
        <tbody>
          {props.parts.map((part, i) => (
            <tr key={part.dimension}>
              <th scope="row">{partName(part)}</th>
              {pairs && <td>{wavelengthText(part)}</td>}
              <td>{logitText(part.q, part.by.q)}</td>
              <td>{logitText(part.k, part.by.k)}</td>
              <td>{logitText(part.product, part.by.product)}</td>
              <td>{logitText(sums[i].value, sums[i].by)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}
