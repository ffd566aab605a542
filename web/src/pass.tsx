/** How far the work is that a panel waits for. */

import { useRef } from "preact/hooks";
import { headName } from "./description";
import { countText } from "./numbers";
import { usePass, useSession } from "./session";
import type { Pass, PassKind } from "./source/source";

const SOON = 4000; // ms before which nobody knows how long it takes

/** How long a pass will take still, in words, by how far it came since it was first seen; nothing where it is soon done. */
function useTimeLeft(pass: Pass | null): string {
  const first = useRef<{ at: number; done: number; of: string } | null>(null);
  if (!pass) {
    first.current = null;
    return "";
  }
  const of = `${pass.what} ${pass.layer} ${pass.head}`;
  if (first.current?.of !== of || pass.done < first.current.done) first.current = { at: performance.now(), done: pass.done, of };
  const { at, done } = first.current;
  const [spent, came] = [performance.now() - at, pass.done - done];
  if (spent < SOON || came <= 0) return "";
  const seconds = ((pass.rows - pass.done) * spent) / came / 1000;
  return seconds < 10 ? "" : seconds < 100 ? `, about ${10 * Math.round(seconds / 10)} s left` : `, about ${Math.round(seconds / 60)} min left`;
}

export function PassNote(props: { what: PassKind; layer: number; head: number }) {
  const { description } = useSession();
  const pass = usePass(props.what, props.layer, props.head);
  const left = useTimeLeft(pass);
  if (!pass) return null;
  const layer = description.layers[pass.layer];
  const name = `Reading layer ${layer.label}, head ${headName(layer, pass.head)}`;
  return (
    <div class="pass">
      <span>{name}</span>
      <progress aria-label={name} max={pass.rows} value={pass.done} />
      <span class="muted">
        {countText(pass.done)} of {countText(pass.rows)} queries{left}
      </span>
    </div>
  );
}
