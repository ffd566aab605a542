/** What a whole row or column says beside a window of it: its strongest, wherever they are, and the share elsewhere. */

import { useMemo } from "preact/hooks";
import { type Asked, known } from "./answers";
import { type Axis, headName, label, position, sidesWithin, visibleText, withinOf } from "./description";
import { positionText, rangeText, shareSpan, shareText, weightText } from "./numbers";
import type { Window } from "./questions";
import { strongest, sums } from "./rows";
import { useSession, useStore } from "./session";

const LISTED = 8;

/** The strongest keys of a query (or queries of a key) of one head, each a button that leads there. */
export function Strongest(props: {
  row: Asked<{ layer: number; head: number }, Float32Array>;
  axis: Axis; // of what is listed
  window: Window | null; // what the view shows of it; null: nothing that could leave any out
  chosen: number | null;
  named?: boolean; // whether the head is said
  received?: boolean; // whether it is what keys receive of all queries, and no query's row
  listed?: number;
  onGo(index: number): void;
}) {
  const { description } = useSession();
  const { layer } = useStore();
  const { axis, window } = props;
  const row = known(props.row);
  const best = useMemo(() => (row ? strongest(row, props.listed ?? LISTED) : null), [row, props.listed]);
  if (props.row.state === "nothing") return null;
  const head = props.row.question.head;
  const many = axis === "key" ? "keys" : "queries";
  const of = axis === "key" ? "query" : "key";
  const what = props.received ? "keys that receive most" : `strongest ${many} of this ${of}`;
  const named = `head ${headName(layer, head)}`;
  const within = props.received ? sidesWithin(layer, head) : withinOf(layer, head);
  return (
    <div role="group" class="strongest" aria-label={`The ${what}${props.named ? `, ${named}` : ""}`}>
      <span class="muted">{props.named ? (props.received ? `${named}: received most` : named) : what}</span>
      {best === null && <span class="muted">{props.row.state === "failed" ? "?" : "\u2026"}</span>}
      {best !== null && best.length === 0 && <span class="muted">none is visible</span>}
      {best?.map(({ index, weight }) => {
        const token = label(description, layer, axis, index);
        const away = window !== null && !(index >= window[0] && index < window[1]);
        return (
          <button
            key={index}
            type="button"
            class={away ? "away" : ""}
            aria-pressed={index === props.chosen}
            title={away ? `${axis} ${positionText(position(layer, axis, index))} is not among those shown: go there` : undefined}
            onClick={() => props.onGo(index)}
          >
            <span>{positionText(position(layer, axis, index))}</span>
            {token !== null && <bdi>{visibleText(token)}</bdi>}
            <b>{weightText(weight, within)}</b>
            {away && <span aria-hidden="true">{"\u2197"}</span>}
          </button>
        );
      })}
      {row !== null && window !== null && !props.received && <Outside row={row} axis={axis} window={window} head={head} />}
    </div>
  );
}

/** The share of a row's weight that a window does not show; nothing where it shows all. */
function Outside(props: { row: Float32Array; axis: Axis; window: Window; head: number }) {
  const { layer } = useStore();
  const { row, axis, window: [first, end], head } = props;
  const { inside, outside } = useMemo(() => sums(row, [first, end]), [row, first, end]);
  if (end - first >= row.length || layer.signed) return null; // differences have no shares
  const shown = rangeText(position(layer, axis, first), position(layer, axis, end - 1));
  const many = axis === "key" ? "keys" : "queries";
  return (
    <span class="outside" data-role="outside">
      {shareText(outside.sum / (inside.sum + outside.sum || 1), shareSpan(outside, inside, withinOf(layer, head)))} of its weight is outside {many} {shown}
    </span>
  );
}
