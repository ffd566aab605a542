/** What the map says in words: of the cell under the pointer, and of where the crosshair stands. */

import { useEffect } from "preact/hooks";
import { type Asked, known, pending } from "../answers";
import { type Axis, type Layer, hasWeights, label, logitsWithin, position, positionName, visibleText, withinOf } from "../description";
import { logitText, rangeText, weightText } from "../numbers";
import { type OfHead, PAIR, type Pair } from "../questions";
import { useAnswer, useSession, useStore } from "../session";
import { endsOf, entropyText, receivedText, useSides } from "./sides";
import type { Cell } from "./tiles";

type AskedPair = Asked<OfHead, Pair>;

/** Asks for the weight and logit of a query and key of the layer and head that are shown. */
export function usePair(query: number | null, key: number | null): AskedPair {
  const { state, layer: shown } = useStore();
  const { layer, head } = state;
  return useAnswer(PAIR, query === null || key === null || !hasWeights(shown) ? null : { layer, head, query, key });
}

export function isSingle({ queries, keys }: Cell): boolean {
  return queries[1] - queries[0] === 1 && keys[1] - keys[0] === 1;
}

export function Tooltip(props: {
  cell: Cell;
  left: number;
  top: number;
  of: string;
  frame: { width: number; height: number };
  exact: AskedPair;
  layer: Layer;
}) {
  const { description } = useSession();
  const { state } = useStore();
  const { cell, left, top } = props;
  const right = left > props.frame.width - 230;
  const above = top > props.frame.height - 130;
  const style = {
    left: right ? undefined : left + 16,
    right: right ? props.frame.width - left + 16 : undefined,
    top: above ? undefined : top + 16,
    bottom: above ? props.frame.height - top + 12 : undefined,
  };
  const single = isSingle(cell);
  const sides = known(useSides());
  const received = sides && endsOf(sides.received, cell.keys);
  const entropy = sides && endsOf(sides.entropy, cell.queries);
  const name = (axis: Axis, [first, end]: [number, number]) => {
    const token = single ? label(description, props.layer, axis, first) : null;
    return (
      <>
        <dt>{end - first === 1 ? axis : axis === "query" ? "queries" : "keys"}</dt>
        <dd>
          {rangeText(position(props.layer, axis, first), position(props.layer, axis, end - 1))}
          {token !== null && <bdi class="token">{visibleText(token)}</bdi>}
        </dd>
      </>
    );
  };
  return (
    <dl class="tooltip" role="tooltip" style={style}>
      {name("query", cell.queries)}
      {name("key", cell.keys)}
      <dt>{single ? props.of : props.of.replace(/ in .*/, "")}</dt>
      <dd class="number" data-value="weight">
        {cell.value === null ? "\u2026" : weightText(cell.value, cell.within)}
      </dd>
      {single && !props.layer.given && props.layer.kept === undefined && (
        <>
          <dt>logit</dt>
          <dd class="number" data-value="logit">
            {logitOf(props.exact, props.layer, state.head)}
          </dd>
        </>
      )}
      {sides && received && (
        <>
          <dt>received</dt>
          <dd class="number" data-value="received">{spanText(received, (value) => receivedText(props.layer, state.head, value))}</dd>
        </>
      )}
      {sides && entropy && (
        <>
          <dt>entropy</dt>
          <dd class="number" data-value="entropy">{spanText(entropy, (value) => entropyText(props.layer, state.head, value))}</dd>
        </>
      )}
    </dl>
  );
}

/** One number, or the least and the largest of several. */
function spanText([least, most]: readonly [number, number], text: (value: number) => string): string {
  const [from, to] = [text(least), text(most)];
  return from === to ? from : `${from.replace(/ nats$/, "")}\u2013${to}`;
}

/** What the crosshair stands on, in words; it is what a screen reader says. */
export function Readout() {
  const { description, announce } = useSession();
  const { state, layer, set } = useStore();
  const asked = usePair(state.query, state.key);
  const pair = known(asked);
  const sides = known(useSides());
  const within = withinOf(layer, state.head);
  const names = state.query !== null && state.key !== null
    ? [
        positionName(description, layer, "query", state.query),
        positionName(description, layer, "key", state.key),
      ]
    : null;
  useEffect(() => {
    if (names && pair) {
      const logit = pair.logit === null ? "" : `, logit ${logitText(pair.logit, logitsWithin(layer, state.head))}`;
      const said = Number.isNaN(pair.weight) ? "hidden" : `${layer.unit ?? "weight"} ${weightText(pair.weight, within)}${logit}`;
      announce(`query ${names[0]}, key ${names[1]}: ${said}`);
    }
  }, [pair]);
  if (!names) {
    return <p class="readout muted">Click a cell or use the arrow keys to set the crosshair. Drag, scroll or pinch to move.</p>;
  }
  return (
    <p class="readout">
      <span>
        query <bdi>{names[0]}</bdi> {"\u2192"} key <bdi>{names[1]}</bdi>
      </span>
      {hasWeights(layer) && (
        <span>
          {layer.unit ?? "weight"} <b data-value="weight">{pair ? weightText(pair.weight, within) : pending(asked)}</b>
        </span>
      )}
      {layer.kept !== undefined ? (
        <span class="muted">reduced while the model ran{hasWeights(layer) ? "" : ": no single weights"}</span>
      ) : layer.given ? (
        <span class="muted">{layer.made ? layer.pattern : "given, not computed"}</span>
      ) : (
        <>
          <span>
            logit <b data-value="logit">{logitOf(asked, layer, state.head)}</b>
          </span>
          <button type="button" class="link" onClick={() => set({ view: "query-key" }, true)}>
            Why this number?
          </button>
        </>
      )}
      {sides && (
        <>
          <span>
            key receives <b data-value="received">{receivedText(layer, state.head, sides.received[state.key!])}</b> on average
          </span>
          <span>
            entropy of the query <b data-value="entropy">{entropyText(layer, state.head, sides.entropy[state.query!])}</b>
          </span>
        </>
      )}
    </p>
  );
}

function logitOf(asked: AskedPair, layer: Layer, head: number): string {
  const logit = known(asked)?.logit ?? null;
  return logit === null ? pending(asked) : logitText(logit, logitsWithin(layer, head));
}
