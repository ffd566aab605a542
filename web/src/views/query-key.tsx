/** The query-key view: the products, one a dimension, that make one score, and the softmax that makes a weight of it. */

import { useMemo } from "preact/hooks";
import { known, pending } from "../answers";
import { HeadPicker, LayerPicker, PositionField, Segmented } from "../controls";
import { type Axis, type Layer, headName, keyHeadText, label, logitsWithin, position, visibleText, withinOf } from "../description";
import { logitText, positionText, shareText, weightText } from "../numbers";
import { type Product, type Total, inPairs, lengthsOf, productsOf, sorted, totalOf } from "../products";
import { COLUMN, PAIR, type Pair, ROW, VECTORS, largest } from "../questions";
import { Neurons } from "./neurons";
import { Chart, Table } from "./parts";
import { useAnswer, useSession, useStore } from "../session";
import { type Link, TELLING } from "../telling";
import { Strongest } from "../whole";

export function QueryKeyControls() {
  const { state, layer, set } = useStore();
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
      {layer.rotary && !layer.given && (
        <button
          type="button"
          class="toggle"
          aria-pressed={state.pairs}
          title="Two dimensions that rotary embedding turns together as one, with how many tokens it takes to turn once"
          onClick={() => set({ pairs: !state.pairs }, true)}
        >
          by pair
        </button>
      )}
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
  const parts = useMemo(() => sorted(state.pairs ? inPairs(found, description, layer) : found, state.sort), [found, state.sort, state.pairs]);
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
