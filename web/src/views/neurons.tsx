/** Every key of one query, dimension by dimension: where each score comes from, side by side. */

import { useEffect, useMemo, useRef } from "preact/hooks";
import { known } from "../answers";
import { diverging, pixel } from "../colors";
import { type Layer, logitsWithin, positionName, withinOf } from "../description";
import { logitText, weightText } from "../numbers";
import { type Product, inPairs, productsOf, totalOf } from "../products";
import { ROW, VECTORS } from "../questions";
import { strongest, visible } from "../rows";
import { useAnswer, useSession, useStore } from "../session";

const MOST = 48; // keys that are shown

/** The keys that are listed: all that are visible where they are few, else the strongest, in their order. */
export function listed(row: Float32Array): number[] {
  const seen = Array.from(row.keys()).filter((key) => !Number.isNaN(row[key]));
  if (seen.length <= MOST) return seen;
  return strongest(row, MOST)
    .map(({ index }) => index)
    .sort((a, b) => a - b);
}

export function Neurons(props: { query: number; chosen: number; dark: boolean; onGo(key: number): void }) {
  const { description } = useSession();
  const { state, layer } = useStore();
  const { query, dark } = props;
  const row = known(useAnswer(ROW, { layer: state.layer, head: state.head, query }));
  const keys = useMemo(() => (row ? listed(row) : []), [row]);
  const vectors = known(useAnswer(VECTORS, keys.length > 0 ? { layer: state.layer, head: state.head, query, keys } : null));
  const dim = layer.head_dim;
  const pairs = state.pairs && layer.rotary !== undefined;
  const products = useMemo(() => {
    const of = (i: number): Float32Array => vectors!.subarray(i * dim, (i + 1) * dim);
    const parts = (i: number): Product[] => productsOf(layer, of(0), of(i + 1));
    return vectors && keys.map((_, i) => (pairs ? inPairs(parts(i), description, layer) : parts(i)));
  }, [vectors, keys, layer, pairs]);
  if (!row || !products) return null;
  const all = products.flat();
  const top = all.reduce((most, one) => (Math.abs(one.product) > Math.abs(most.product) ? one : most), all[0]);
  const seen = visible(row);
  const most = (of: "q" | "k"): number => Math.max(1e-9, ...all.map((one) => Math.abs(one[of])));
  const tops = { product: Math.max(1e-9, Math.abs(top.product)), q: most("q"), k: most("k") };
  return (
    <div role="group" class="neurons" aria-label="Every key of this query, dimension by dimension">
      <h2>
        query {positionName(description, layer, "query", query)} and {keys.length < seen ? `its ${keys.length} strongest keys of ${seen}` : "every key it sees"}
      </h2>
      <p class="muted">
        Each row is query {"\u00d7"} key {"\u00d7"} scale of the {dim} dimensions{pairs && ", two that turn together as one"}, to {"\u00b1"}
        {logitText(Math.abs(top.product), top.by.product)}; their sum is the score{layer.softcap === null && !layer.alibi && !layer.bias ? "" : ", before what is added to it"}. Under it the key itself, to {"\u00b1"}
        {logitText(tops.k, all[0].by.k)}, and at the head the query, to {"\u00b1"}
        {logitText(tops.q, all[0].by.q)}.
      </p>
      <table>
        <thead>
          <tr>
            <th scope="col">key</th>
            <th scope="col">
              {pairs ? `${layer.rotary!.frequencies.length} pairs${2 * layer.rotary!.frequencies.length < dim ? ", then the other dimensions" : ""}` : `dimension 0 to ${dim - 1}`}
            </th>
            <th scope="col">sum</th>
            <th scope="col">weight</th>
          </tr>
          <tr>
            <td>query</td>
            <td>
              <Shades products={products[0]} of="q" top={tops.q} dark={dark} />
            </td>
            <td />
            <td />
          </tr>
        </thead>
        <tbody>
          {keys.map((key, i) => (
            <Key
              key={key}
              name={positionName(description, layer, "key", key)}
              products={products[i]}
              tops={tops}
              weight={row[key]}
              layer={layer}
              head={state.head}
              chosen={key === props.chosen}
              dark={dark}
              onGo={() => props.onGo(key)}
            />
          ))}
        </tbody>
      </table>
    </div>
  );
}

/** A number of each part, a color each. */
function Shades(props: { products: readonly Product[]; of: "product" | "q" | "k"; top: number; dark: boolean }) {
  const { products, of, top, dark } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const image = new ImageData(products.length, 1);
    const pixels = new Uint32Array(image.data.buffer);
    for (const [d, one] of products.entries()) pixels[d] = pixel(diverging(one[of] / top, dark));
    canvas.current!.getContext("2d")!.putImageData(image, 0, 0);
  }, [products, of, top, dark]);
  return <canvas class={`of-${of}`} ref={canvas} width={products.length} height={1} aria-hidden="true" />;
}

function Key(props: {
  name: string;
  products: readonly Product[];
  tops: Record<"product" | "k", number>;
  weight: number;
  layer: Layer;
  head: number;
  chosen: boolean;
  dark: boolean;
  onGo(): void;
}) {
  const { products, tops, weight, layer, head, dark } = props;
  const sum = totalOf(layer, products, logitsWithin(layer, head));
  return (
    <tr class={props.chosen ? "chosen" : ""}>
      <th scope="row">
        <button type="button" class="link" onClick={props.onGo}>
          <bdi>{props.name}</bdi>
        </button>
      </th>
      <td>
        <Shades products={products} of="product" top={tops.product} dark={dark} />
        <Shades products={products} of="k" top={tops.k} dark={dark} />
      </td>
      <td>{logitText(sum.value, sum.by)}</td>
      <td class="neurons-weight">
        <i style={{ width: `${100 * Math.min(1, weight)}%` }} aria-hidden="true" />
        <span>{weightText(weight, withinOf(layer, head))}</span>
      </td>
    </tr>
  );
}
