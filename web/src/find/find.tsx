/** The search field: tokens and words by their text, marked wherever they stand, and a jump to each. */

import { useMemo } from "preact/hooks";
import { Segmented } from "../controls";
import type { Axis } from "../description";
import { useSession, useStore } from "../session";
import type { Session } from "../session";
import { type State, opening } from "../state";
import { type Match, covered, matches, next } from "./matches";

const NONE: ReadonlySet<number> = new Set();

/** The indices of an axis that the text that is looked for is at. */
export function useFound(axis: Axis): ReadonlySet<number> {
  const { description } = useSession();
  const { state, layer } = useStore();
  return useMemo(
    () => (state.find === "" ? NONE : covered(matches(description, layer, axis, state.find))),
    [description, state.layer, axis, state.find],
  );
}

/** What changes as a query or key is gone to: it is pinned, and what shows it comes to it. */
export function going(session: Session, axis: Axis, index: number): Partial<State> {
  const { description, store } = session;
  const { state } = store;
  const alone = state.view === "heads" || state.view === "text"; // which pin one token
  const pinned: Partial<State> = alone ? { query: null, key: null, [axis]: index } : { [axis]: index };
  if (state.view === "text") pinned.flow = axis === "query" ? "gives" : "receives";
  if (state.view === "map" && state.zoom !== null) pinned[axis === "query" ? "y" : "x"] = index + 0.5;
  const next = { ...state, ...pinned };
  return { ...pinned, ...opening(next, description, state.view) };
}

/** Goes to the next match, or the one before; gives whether there is one. */
export function step(session: Session, by: 1 | -1): boolean {
  const { store, description } = session;
  const { state } = store;
  const axis = state.findAxis;
  const layer = description.layers[state.layer];
  const found = next(matches(description, layer, axis, state.find), state[axis], by);
  if (found) store.set(going(session, axis, found[0]), true);
  return found !== null;
}

export function FindField() {
  const session = useSession();
  const { description } = session;
  const { state, layer, set } = useStore();
  const axis = state.findAxis;
  const found = useMemo<Match[]>(
    () => matches(description, layer, axis, state.find),
    [description, state.layer, axis, state.find],
  );
  const at = found.findIndex(([first]) => first === state[axis]);
  const go = (by: 1 | -1): void => {
    step(session, by);
  };
  return (
    <div class="find" role="search">
      <input
        type="search"
        class="find-text"
        aria-label="Find a token, a word or a position"
        placeholder="Find a word"
        value={state.find}
        onInput={({ currentTarget }) => set({ find: currentTarget.value })}
        onKeyDown={(event) => {
          if (event.key === "Enter") go(event.shiftKey ? -1 : 1);
          if (event.key === "Escape" && state.find !== "") {
            event.stopPropagation();
            set({ find: "" }, true);
          }
        }}
      />
      {state.find.trim() !== "" && (
        <>
          <Segmented
            name="What is found"
            value={axis}
            choices={[
              ["query", "query", "Go to it as a query"],
              ["key", "key", "Go to it as a key"],
            ]}
            onChange={(findAxis) => set({ findAxis }, true)}
          />
          <button type="button" aria-label="Previous match" disabled={found.length === 0} onClick={() => go(-1)}>
            {"\u2039"}
          </button>
          <span class="find-count muted" aria-live="polite">
            {found.length === 0 ? "none" : at < 0 ? `${found.length} found` : `${at + 1} of ${found.length}`}
          </span>
          <button type="button" aria-label="Next match" disabled={found.length === 0} onClick={() => go(1)}>
            {"\u203a"}
          </button>
        </>
      )}
    </div>
  );
}
