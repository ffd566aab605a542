/** Every key of one query, dimension by dimension: where each score comes from, side by side. */

import { useEffect, useMemo, useRef } from "preact/hooks";
import { type Kind, known } from "../answers";
import { diverging, pixel } from "../colors";
import { type Layer, logitsWithin, positionName, withinOf } from "../description";
import { logitText, weightText } from "../numbers";
import { type OfHead, ROW } from "../questions";
import { strongest } from "../rows";
import { useAnswer, useSession, useStore } from "../session";

const MOST = 48; // keys that are shown

/** The products q_d k_d of a query and some keys, times the scale, (keys, D). */
const PRODUCTS: Kind<OfHead & { query: number; keys: readonly number[] }, Float32Array> = {
  name: "products of keys",
  bytes: (values) => values.byteLength,
  async ask(source, { layer, head, query, keys }, signal) {
    const { head_dim: dim, scale } = source.description.layers[layer];
    const found = new Float32Array(keys.length * dim);
    await Promise.all(
      keys.map(async (key, row) => {
        const both = await source.vectors(layer, head, query, key, signal);
        for (let d = 0; d < dim; d++) found[row * dim + d] = both[d] * both[dim + d] * scale;
      }),
    );
    return found;
  },
};

/** The keys that are listed: all that are visible where they are few, else the strongest, in their order. */
export function listed(row: Float32Array): number[] {
  const visible = Array.from(row.keys()).filter((key) => !Number.isNaN(row[key]));
  if (visible.length <= MOST) return visible;
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
  const products = known(useAnswer(PRODUCTS, keys.length > 0 ? { layer: state.layer, head: state.head, query, keys } : null));
  if (!row || !products) return null;
  const dim = layer.head_dim;
  const top = Math.max(1e-9, ...products.map(Math.abs));
  const visible = row.reduce((count, weight) => count + (Number.isNaN(weight) ? 0 : 1), 0);
  return (
    <div role="group" class="neurons" aria-label="Every key of this query, dimension by dimension">
      <h2>
        query {positionName(description, layer, "query", query)} and {keys.length < visible ? `its ${keys.length} strongest keys of ${visible}` : "every key it sees"}
      </h2>
      <p class="muted">
        Each row is query {"\u00d7"} key {"\u00d7"} scale of the {dim} dimensions, to {"\u00b1"}
        {logitText(top)}; their sum is the score{layer.softcap === null && !layer.alibi ? "" : ", before what is added to it"}.
      </p>
      <table>
        <thead>
          <tr>
            <th scope="col">key</th>
            <th scope="col">
              dimension 0 to {dim - 1}
            </th>
            <th scope="col">sum</th>
            <th scope="col">weight</th>
          </tr>
        </thead>
        <tbody>
          {keys.map((key, i) => (
            <Key
              key={key}
              name={positionName(description, layer, "key", key)}
              products={products.subarray(i * dim, (i + 1) * dim)}
              top={top}
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

function Key(props: {
  name: string;
  products: Float32Array;
  top: number;
  weight: number;
  layer: Layer;
  head: number;
  chosen: boolean;
  dark: boolean;
  onGo(): void;
}) {
  const { products, top, weight, layer, head, dark } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  useEffect(() => {
    const image = new ImageData(products.length, 1);
    const pixels = new Uint32Array(image.data.buffer);
    for (const [d, product] of products.entries()) pixels[d] = pixel(diverging(product / top, dark));
    canvas.current!.getContext("2d")!.putImageData(image, 0, 0);
  }, [products, top, dark]);
  const sum = products.reduce((all, product) => all + product, 0);
  return (
    <tr class={props.chosen ? "chosen" : ""}>
      <th scope="row">
        <button type="button" class="link" onClick={props.onGo}>
          <bdi>{props.name}</bdi>
        </button>
      </th>
      <td>
        <canvas ref={canvas} width={products.length} height={1} aria-hidden="true" />
      </td>
      <td>{logitText(sum, logitsWithin(layer, head))}</td>
      <td class="neurons-weight">
        <i style={{ width: `${100 * Math.min(1, weight)}%` }} aria-hidden="true" />
        <span>{weightText(weight, withinOf(layer, head))}</span>
      </td>
    </tr>
  );
}
