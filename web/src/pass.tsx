/** How far the work is that a panel waits for. */

import { headName } from "./description";
import { countText } from "./numbers";
import { usePass, useSession } from "./session";
import type { PassKind } from "./source/source";

export function PassNote(props: { what: PassKind; layer: number; head: number }) {
  const { description } = useSession();
  const pass = usePass(props.what, props.layer, props.head);
  if (!pass) return null;
  const layer = description.layers[pass.layer];
  const name = `Reading layer ${layer.label}, head ${headName(layer, pass.head)}`;
  return (
    <div class="pass">
      <span>{name}</span>
      <progress aria-label={name} max={pass.rows} value={pass.done} />
      <span class="muted">
        {countText(pass.done)} of {countText(pass.rows)} queries
      </span>
    </div>
  );
}
