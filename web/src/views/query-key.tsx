/** The query-key view: the products, one a dimension, that make one score. */

import { useMemo } from "preact/hooks";
import { css, diverging } from "../colors";
import { HeadPicker, LayerPicker, PositionField, Segmented } from "../controls";
import { type Layer, label, position, visibleText } from "../description";
import { logitText, positionText, rangeText, weightText } from "../numbers";
import { useAnswer, useSession, useSize, useStore } from "../session";
import { WINDOW, clamp } from "../state";

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
    return <p class="muted">These weights were given: there is no query and no key they were computed from.</p>;
  }
  return <Products dark={props.dark} />;
}

function Products(props: { dark: boolean }) {
  const { source, description } = useSession();
  const { state, layer, set } = useStore();
  const query = state.query ?? layer.queries - 1;
  const key = state.key ?? 0;
  const one = { queries: [query, query + 1] as [number, number], keys: [key, key + 1] as [number, number] };
  const first = clamp(key - WINDOW / 2, 0, Math.max(0, layer.keys - WINDOW));
  const row: [number, number] = [first, Math.min(layer.keys, first + WINDOW)];

  const pair = useAnswer(
    (signal) =>
      Promise.all([
        source.vectors(state.layer, state.head, query, key, signal),
        source.weights(state.layer, state.head, one, signal),
        source.logits(state.layer, state.head, one, signal),
      ]).then(([vectors, weights, logits]) => ({ vectors, weight: weights[0], logit: logits[0] })),
    [state.layer, state.head, query, key],
  ).value;
  const others = useAnswer(
    (signal) => source.weights(state.layer, state.head, { queries: [query, query + 1], keys: row }, signal),
    [state.layer, state.head, query, ...row],
  ).value;

  const parts = useMemo(() => (pair ? products(pair.vectors, layer.scale, state.sort) : []), [pair, layer.scale, state.sort]);
  const sum = parts.reduce((total, { product }) => total + product, 0);
  const best = useMemo(() => strongest(others, row[0]), [others]);
  const name = (axis: "query" | "key", index: number) => {
    const token = label(description, layer, axis, index);
    return (
      <>
        {axis} {positionText(position(layer, axis, index))}
        {token !== null && <bdi class="token-hint">{visibleText(token)}</bdi>}
      </>
    );
  };
  return (
    <div class="qk-view">
      <section class="qk-equation" aria-label="The score">
        <div>
          <span class="qk-name">{name("query", query)}</span>
          <span class="muted">{"\u00b7"}</span>
          <span class="qk-name">{name("key", key)}</span>
        </div>
        {pair && <Equation sum={sum} logit={pair.logit} weight={pair.weight} layer={layer} />}
      </section>
      {parts.length > 0 && <Chart parts={parts} dark={props.dark} />}
      {best.length > 0 && (
        <section class="qk-others" aria-label="The strongest keys of this query">
          <span class="muted">
            strongest keys of this query{layer.keys > WINDOW ? ` among ${rangeText(position(layer, "key", row[0]), position(layer, "key", row[1] - 1))}` : ""}
          </span>
          {best.map(([index, weight]) => (
            <button
              key={index}
              type="button"
              aria-pressed={index === key}
              onClick={() => set({ query, key: index }, true)}
            >
              <span>{positionText(position(layer, "key", index))}</span>
              {label(description, layer, "key", index) !== null && (
                <bdi>{visibleText(label(description, layer, "key", index)!)}</bdi>
              )}
              <b>{weightText(weight)}</b>
            </button>
          ))}
        </section>
      )}
      {parts.length > 0 && (
        <details class="qk-table">
          <summary>All {parts.length} products as a table</summary>
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
              {running(parts).map(({ dimension, q, k, product, total }) => (
                <tr key={dimension}>
                  <th scope="row">{dimension}</th>
                  <td>{logitText(q)}</td>
                  <td>{logitText(k)}</td>
                  <td>{logitText(product)}</td>
                  <td>{logitText(total)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </details>
      )}
    </div>
  );
}

function Equation(props: { sum: number; logit: number; weight: number; layer: Layer }) {
  const { layer, sum, logit, weight } = props;
  const hidden = logit === Number.NEGATIVE_INFINITY;
  const capped = layer.softcap === null ? sum : layer.softcap * Math.tanh(sum / layer.softcap);
  const added = logit - capped;
  return (
    <div class="qk-sum">
      <Term name={`sum of ${layer.head_dim} products`} value={logitText(sum)} />
      {layer.softcap !== null && <Term sign={"\u2192"} name={`softcap ${layer.softcap}`} value={logitText(capped)} />}
      {!hidden && Math.abs(added) > 1e-4 * Math.max(1, Math.abs(logit)) && (
        <Term sign="+" name="bias" value={logitText(added)} />
      )}
      {hidden ? (
        <Term sign={"\u2192"} name="this query does not see this key" value="hidden" />
      ) : (
        <>
          <Term sign="=" name="logit" value={logitText(logit)} data="logit" />
          <Term sign={"\u2192"} name="weight, after softmax" value={weightText(weight)} data="weight" />
        </>
      )}
    </div>
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

interface Part {
  dimension: number;
  q: number;
  k: number;
  product: number;
}

/** q_d * k_d * scale for each dimension, in order or the largest by size first. */
export function products(vectors: Float32Array, scale: number, sort: "order" | "size"): Part[] {
  const dim = vectors.length / 2;
  const parts = Array.from({ length: dim }, (_, dimension) => {
    const [q, k] = [vectors[dimension], vectors[dim + dimension]];
    return { dimension, q, k, product: q * k * scale };
  });
  return sort === "size" ? parts.sort((a, b) => Math.abs(b.product) - Math.abs(a.product)) : parts;
}

function running(parts: Part[]): (Part & { total: number })[] {
  let total = 0;
  return parts.map((part) => ({ ...part, total: (total += part.product) }));
}

/** The keys with the largest weights, at most 8. */
function strongest(weights: Float32Array | null, first: number): [number, number][] {
  if (!weights) return [];
  return [...weights.entries()]
    .filter(([, weight]) => !Number.isNaN(weight))
    .sort((a, b) => b[1] - a[1])
    .slice(0, 8)
    .map(([index, weight]) => [index + first, weight]);
}

const HEIGHT = 230;
const STRIP = 16;

function Chart(props: { parts: Part[]; dark: boolean }) {
  const { parts } = props;
  const most = Math.max(...parts.map(({ product }) => Math.abs(product)), 1e-9);
  const largestOf = (pick: (part: Part) => number) => Math.max(...parts.map((part) => Math.abs(pick(part))), 1e-9);
  const [mostQ, mostK] = [largestOf(({ q }) => q), largestOf(({ k }) => k)];
  const width = 1000;
  const each = width / parts.length;
  const zero = HEIGHT / 2;
  const [plot, { width: wide }] = useSize<HTMLDivElement>();
  const every = Math.max(1, Math.ceil(parts.length / Math.max(1, Math.min(32, wide / 26))));
  return (
    <figure class="qk-chart">
      <div class="qk-rows" aria-hidden="true">
        <span style={{ height: HEIGHT }}>
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
          height={HEIGHT}
          preserveAspectRatio="none"
          role="img"
          aria-label={`Products of ${parts.length} dimensions; the largest by size is dimension ${[...parts].sort((a, b) => Math.abs(b.product) - Math.abs(a.product))[0].dimension}`}
        >
          {parts.map(({ dimension, q, k, product }, i) => {
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
                <title>{`dimension ${dimension}: ${logitText(q)} \u00d7 ${logitText(k)} \u00d7 scale = ${logitText(product)}`}</title>
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
                title={`${which === "q" ? "query" : "key"}, dimension ${part.dimension}: ${logitText(part[which])}`}
                style={{ background: css(diverging(part[which] / top)) }}
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
      </figcaption>
    </figure>
  );
}
