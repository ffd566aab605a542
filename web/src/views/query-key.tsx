/** The query-key view: the products, one a dimension, that make one score, and the softmax that makes a weight of it. */

import { useMemo } from "preact/hooks";
import { known, pending } from "../answers";
import { css, diverging, gradient } from "../colors";
import { HeadPicker, LayerPicker, PositionField, Segmented } from "../controls";
import { type Axis, type Layer, headName, keyHeadText, label, logitsWithin, position, visibleText, withinOf } from "../description";
import { logitText, positionText, shareText, weightText } from "../numbers";
import { type Product, type Total, lengthsOf, productsOf, sorted, totalOf, totals } from "../products";
import { COLUMN, PAIR, type Pair, ROW, VECTORS, largest } from "../questions";
import { Neurons } from "./neurons";
import { useAnswer, useSession, useSize, useStore } from "../session";
import { type Link, TELLING } from "../telling";
import { Strongest } from "../whole";

export function QueryKeyControls() {
  const { state, set } = useStore();
  return (
    <>
      <LayerPicker />
      <HeadPicker />
      <PositionField axis="query" />
      <PositionField axis="key" />
      <Segmented
        name="Order of the dimensions"
        value={state.sort}
        choices={[
          ["order", "in order"],
          ["size", "by size", "The products that matter most first"],
        ]}
        onChange={(sort) => set({ sort }, true)}
      />
    </>
  );
}

export function QueryKeyView(props: { dark: boolean }) {
  const { layer } = useStore();
  if (layer.kept !== undefined) {
    return <p class="muted">These maps were reduced while the model ran: its queries and keys were not kept.</p>;
  }
  if (layer.given) {
    return layer.made ? (
      <p class="muted">Keys are left out, or words seen as one: that is made of weights, and no one score makes it. Take that back to see scores.</p>
    ) : (
      <p class="muted">These weights were given: there is no query and no key they were computed from.</p>
    );
  }
  return <Products dark={props.dark} />;
}

/** What is shown: the chosen query and key; of one alone, the other that it is linked to most; else the strongest link. */
export function useLink(wanted = true): Link | null {
  const { state } = useStore();
  const { query, key, layer, head } = state;
  const of = { layer, head };
  const telling = known(useAnswer(TELLING, wanted && query === null && key === null ? of : null));
  const row = known(useAnswer(ROW, wanted && query !== null && key === null ? { ...of, query } : null));
  const column = known(useAnswer(COLUMN, wanted && query === null && key !== null ? { ...of, key } : null));
  return useMemo(() => {
    if (query !== null && key !== null) return { query, key };
    if (query !== null) return row && { query, key: Math.max(0, row.indexOf(largest(row))) };
    if (key !== null) return column && { query: Math.max(0, column.indexOf(largest(column))), key };
    return telling;
  }, [query, key, row, column, telling]);
}

function Products(props: { dark: boolean }) {
  const { description } = useSession();
  const { state, layer, set } = useStore();
  const link = useLink();
  const of = { layer: state.layer, head: state.head };
  const asked = useAnswer(PAIR, link && { ...of, ...link });
  const vectors = known(useAnswer(VECTORS, link && { ...of, query: link.query, keys: [link.key] }));
  const row = useAnswer(ROW, link && { ...of, query: link.query });
  const pair = known(asked);

  const found = useMemo(() => (vectors ? productsOf(layer, ...split(vectors, layer.head_dim)) : []), [vectors, layer]);
  const parts = useMemo(() => sorted(found, state.sort), [found, state.sort]);
  const name = (axis: Axis, index: number | undefined) => {
    const token = index === undefined ? null : label(description, layer, axis, index);
    return (
      <span class="qk-name">
        {axis} {index === undefined ? "\u2026" : positionText(position(layer, axis, index))}
        {token !== null && <bdi class="token-hint">{visibleText(token)}</bdi>}
      </span>
    );
  };
  const shared = keyHeadText(layer, state.head);
  return (
    <div class="qk-view">
      <div role="group" class="qk-equation" aria-label="The score">
        <div>
          {name("query", link?.query)}
          <span class="muted">{"\u00b7"}</span>
          {name("key", link?.key)}
          {shared !== null && (
            <span class="muted qk-shared">
              head {headName(layer, state.head)} {shared}
            </span>
          )}
        </div>
        {link && pair && vectors ? (
          <Equation link={link} products={found} pair={pair} layer={layer} head={state.head} />
        ) : (
          <div class="qk-sum muted">{pending(asked)}</div>
        )}
      </div>
      {found.length > 0 && <Lengths products={found} scale={layer.scale} />}
      {link && (
        <Strongest
          row={row}
          axis="key"
          window={null}
          chosen={link.key}
          onGo={(key) => set({ query: link.query, key }, true)}
        />
      )}
      {parts.length > 0 && <Chart parts={parts} dark={props.dark} />}
      {parts.length > 0 && <Table parts={parts} />}
      {parts.length > 0 && link && (
        <Neurons query={link.query} chosen={link.key} dark={props.dark} onGo={(key) => set({ query: link.query, key }, true)} />
      )}
    </div>
  );
}

/** A number that something adds to a score. */
interface Added {
  name: string;
  value: number;
}

/** The vector of a query, and that of one key. */
function split(vectors: Float32Array, dim: number): [Float32Array, Float32Array] {
  return [vectors.subarray(0, dim), vectors.subarray(dim, 2 * dim)];
}

/** What is added to the capped sum of products: a bias, and ALiBi's share of the distance. */
export function addedTo(layer: Layer, head: number, { query, key }: Link, capped: number, logit: number): Added[] {
  const slope = layer.alibi?.[head] ?? 0;
  const distance = layer.positions === null ? 0 : Math.abs(position(layer, "query", query) - position(layer, "key", key));
  const added: Added[] = [];
  const bias = logit - capped + slope * distance;
  if (Math.abs(bias) > 1e-4 * Math.max(1, Math.abs(logit), slope * distance)) added.push({ name: "bias", value: bias });
  if (slope !== 0) {
    added.push({ name: `ALiBi: \u2212${Number(slope.toPrecision(4))} \u00d7 distance ${positionText(distance)}`, value: -slope * distance });
  }
  return added;
}

/** From the sum of products over what is added to it to the logit, and through the softmax to the weight. */
function Equation(props: { link: Link; products: readonly Product[]; pair: Pair; layer: Layer; head: number }) {
  const { layer, pair, head, link } = props;
  const [logit, weight] = [pair.logit!, pair.weight];
  const by = logitsWithin(layer, head);
  const hidden = logit === Number.NEGATIVE_INFINITY;
  const sum = totalOf(layer, props.products, hidden ? Number.POSITIVE_INFINITY : by);
  const capped = cappedOf(layer, sum);
  // Of the query's whole row: the logarithm of what exp(logit) is divided by.
  const denominator = weight > 0 ? logit - Math.log(weight) : null;
  const sink = layer.sinks?.[head] ?? null;
  return (
    <div class="qk-sum">
      <Term
        name={`sum of ${layer.head_dim} products`}
        value={logitText(sum.value, sum.by)}
      />
      {layer.softcap !== null && <Term sign={"\u2192"} name={`softcap ${layer.softcap}`} value={logitText(capped.value, capped.by)} />}
      {!hidden &&
        addedTo(layer, head, link, capped.value, logit).map(({ name, value }) => (
          <Term key={name} sign={"+"} name={name} value={logitText(value, name === "bias" ? by + capped.by : 0)} />
        ))}
      {hidden ? (
        <Term sign={"\u2192"} name="this query does not see this key" value="hidden" />
      ) : (
        <>
          <Term sign="=" name="logit" value={logitText(logit, by)} data="logit" />
          {denominator !== null && (
            <Term
              sign={"\u2212"}
              name={sink === null ? "log of the softmax\u2019s denominator" : "log of the denominator, with the sink"}
              value={logitText(denominator, by + withinOf(layer, head).share)}
              data="denominator"
            />
          )}
          <Term sign={"\u2192"} name="weight: exp of that" value={weightText(weight, withinOf(layer, head))} data="weight" />
          {sink !== null && denominator !== null && (
            <Term name={`the sink ${logitText(sink)} takes of the denominator`} value={sinkText(sink, denominator, by + withinOf(layer, head).share)} />
          )}
        </>
      )}
    </div>
  );
}

/** The same sum as lengths and an angle. */
function Lengths(props: { products: readonly Product[]; scale: number }) {
  const { q, k, cosine } = lengthsOf(props.products);
  return (
    <p class="muted qk-lengths">
      length of the query <b data-value="query-norm">{logitText(q.value, q.by)}</b> {"\u00d7"} length of the key{" "}
      <b data-value="key-norm">{logitText(k.value, k.by)}</b>
      {cosine !== null && (
        <>
          {" "}
          {"\u00d7"} cosine <b data-value="cosine">{logitText(cosine.value, cosine.by)}</b>
        </>
      )}{" "}
      {"\u00d7"} scale {Number(props.scale.toPrecision(4))}
    </p>
  );
}

/** The share that a sink takes of a softmax whose denominator's logarithm is known to within `by`. */
function sinkText(sink: number, denominator: number, by: number): string {
  const share = (off: number): number => Math.min(1, Math.exp(sink - denominator + off));
  return shareText(share(0), [share(-by), share(by)]);
}

/** A sum after the softcap. */
function cappedOf({ softcap }: Layer, { value, by }: Total): Total {
  if (softcap === null) return { value, by };
  const of = (sum: number): number => softcap * Math.tanh(sum / softcap);
  return { value: of(value), by: Math.max(of(value + by) - of(value), of(value) - of(value - by)) };
}

function Table(props: { parts: readonly Product[] }) {
  const sums = totals(props.parts);
  return (
    <details class="qk-table">
      <summary>All {props.parts.length} products as a table</summary>
      <table>
        <thead>
          <tr>
            <th scope="col">dimension</th>
            <th scope="col">query</th>
            <th scope="col">key</th>
            <th scope="col">query {"\u00d7"} key {"\u00d7"} scale</th>
            <th scope="col">sum so far</th>
          </tr>
        </thead>
        <tbody>
          {props.parts.map(({ dimension, q, k, product, by }, i) => (
            <tr key={dimension}>
              <th scope="row">{dimension}</th>
              <td>{logitText(q, by.q)}</td>
              <td>{logitText(k, by.k)}</td>
              <td>{logitText(product, by.product)}</td>
              <td>{logitText(sums[i].value, sums[i].by)}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}

function Term(props: { sign?: string; name: string; value: string; data?: string }) {
  return (
    <span class="qk-signed">
      {props.sign && <span class="qk-sign">{props.sign}</span>}
      <span class="qk-term">
        <b data-value={props.data}>{props.value}</b>
        <span class="muted">{props.name}</span>
      </span>
    </span>
  );
}

const HEIGHT = 230;
const STRIP = 16;

function Chart(props: { parts: readonly Product[]; dark: boolean }) {
  const { parts } = props;
  const most = Math.max(...parts.map(({ product }) => Math.abs(product)), 1e-9);
  const largestOf = (pick: (part: Product) => number) => Math.max(...parts.map((part) => Math.abs(pick(part))), 1e-9);
  const [mostQ, mostK] = [largestOf(({ q }) => q), largestOf(({ k }) => k)];
  const width = 1000;
  const each = width / parts.length;
  const zero = HEIGHT / 2;
  const [plot, { width: wide }] = useSize<HTMLDivElement>();
  const every = Math.max(1, Math.ceil(parts.length / Math.max(1, Math.min(32, wide / 26))));
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
      </div>
      <div class="qk-plot" ref={plot}>
        <svg
          viewBox={`0 0 ${width} ${HEIGHT}`}
          preserveAspectRatio="none"
          role="img"
          aria-label={`Products of ${parts.length} dimensions; the largest by size is dimension ${[...parts].sort((a, b) => Math.abs(b.product) - Math.abs(a.product))[0].dimension}`}
        >
          {parts.map(({ dimension, q, k, product, by }, i) => {
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
                <title>{`dimension ${dimension}: ${logitText(q, by.q)} \u00d7 ${logitText(k, by.k)} \u00d7 scale = ${logitText(product, by.product)}`}</title>
              </rect>
            );
          })}
          <line class="zero" x1="0" x2={width} y1={zero} y2={zero} vector-effect="non-scaling-stroke" />
        </svg>
        {([["q", mostQ], ["k", mostK]] as const).map(([which, top]) => (
          <div key={which} class="qk-strip" style={{ height: STRIP }} aria-hidden="true">
            {parts.map((part) => (
              <i
                key={part.dimension}
                title={`${which === "q" ? "query" : "key"}, dimension ${part.dimension}: ${logitText(part[which], part.by[which])}`}
                style={{ background: css(diverging(part[which] / top, props.dark)) }}
              />
            ))}
          </div>
        ))}
        <div class="qk-dims" aria-hidden="true">
          {parts.map(({ dimension }, i) => (
            <i key={dimension}>{i % every === 0 ? dimension : ""}</i>
          ))}
        </div>
      </div>
      <figcaption class="muted">
        <span class="key plus">raises the score</span> <span class="key minus">lowers it</span>
        <span class="qk-strips-key">
          query and key: {logitText(-1)} to 1 times{" "}
          <i style={{ background: gradient((share) => diverging(2 * share - 1, props.dark)) }} /> their largest, {logitText(mostQ, parts[0].by.q)} and{" "}
          {logitText(mostK, parts[0].by.k)}
        </span>
      </figcaption>
    </figure>
  );
}
