/** Keys of the keyboard for the whole page, and the list of them. */

import { useEffect, useRef } from "preact/hooks";
import { layersOf } from "./description";
import { step } from "./find/find";
import { type Session, useSession } from "./session";
import { VIEWS, clamp, opening } from "./state";

export interface Shortcut {
  keys: readonly string[];
  said: string;
  run(session: Session, app: HTMLElement): void;
}

function toHead(session: Session, by: number): void {
  const { store, description } = session;
  const { state } = store;
  const heads = description.layers[state.layer].heads;
  const head = (state.head + by + heads) % heads;
  store.set(state.view === "heads" ? { head, heads: [head] } : { head }, true);
}

function toLayer(session: Session, by: number): void {
  const { store, description } = session;
  const own = layersOf(description, description.layers[store.state.layer].text);
  store.set({ layer: own[clamp(own.indexOf(store.state.layer) + by, 0, own.length - 1)] }, true);
}

export const SHORTCUTS: readonly Shortcut[] = [
  { keys: ["]", "j"], said: "next head", run: (session) => toHead(session, 1) },
  { keys: ["[", "k"], said: "previous head", run: (session) => toHead(session, -1) },
  { keys: ["}", "J"], said: "next layer", run: (session) => toLayer(session, 1) },
  { keys: ["{", "K"], said: "previous layer", run: (session) => toLayer(session, -1) },
  { keys: ["/"], said: "find a word", run: (_, app) => app.querySelector<HTMLInputElement>(".find-text")?.focus() },
  { keys: ["n"], said: "next match", run: (session) => step(session, 1) },
  { keys: ["N", "p"], said: "previous match", run: (session) => step(session, -1) },
  ...VIEWS.map((view, i) => ({
    keys: [`${i + 1}`],
    said: `the ${view} view`,
    run: ({ store, description }: Session) => store.set(opening(store.state, description, view), true),
  })),
  { keys: ["s"], said: "save or copy what is seen", run: (_, app) => app.querySelector<HTMLElement>(".take-open")?.click() },
  { keys: ["?"], said: "these keys", run: (_, app) => app.querySelector<HTMLDialogElement>(".shortcuts")?.showModal() },
];

/** What other parts of the page do with keys, for the list. */
const ELSEWHERE = [
  ["Esc", "let go of what is pinned"],
  ["\u2190 \u2191 \u2192 \u2193", "move among tokens, heads, views; move the map\u2019s crosshair (with Shift: by 10)"],
  ["+ \u2212 0", "zoom the map; show all of it"],
  ["Enter", "pin a token; in the search field: next match (with Shift: previous)"],
] as const;

const TYPED = "input, textarea, select, [contenteditable]";

/** Listens to the keys: of a page to all, of a notebook's cell to those that are its own. */
export function Shortcuts() {
  const session = useSession();
  const dialog = useRef<HTMLDialogElement>(null);
  useEffect(() => {
    const app = dialog.current!.closest<HTMLElement>(".app")!;
    const heard = (event: KeyboardEvent): void => {
      const typing = (event.composedPath()[0] as Element).matches?.(TYPED);
      if (event.defaultPrevented || typing || event.ctrlKey || event.metaKey || event.altKey || dialog.current?.open) return;
      const found = SHORTCUTS.find(({ keys }) => keys.includes(event.key));
      if (!found) return;
      event.preventDefault();
      event.stopPropagation(); // a notebook has keys of its own
      found.run(session, app);
    };
    const place: HTMLElement | Document = session.inCell ? app : document;
    place.addEventListener("keydown", heard as EventListener);
    return () => place.removeEventListener("keydown", heard as EventListener);
  }, [session]);
  return (
    <>
      <button type="button" class="keys-open" aria-label="Keys of the keyboard" title="Keys of the keyboard (?)" onClick={() => dialog.current!.showModal()}>
        ?
      </button>
      <dialog class="shortcuts" ref={dialog} aria-label="Keys of the keyboard" onClick={(event) => event.target === dialog.current && dialog.current!.close()}>
        <h2>Keys</h2>
        <dl>
          {SHORTCUTS.map(({ keys, said }) => (
            <div key={said}>
              <dt>{keys.map((key) => <kbd key={key}>{key}</kbd>)}</dt>
              <dd>{said}</dd>
            </div>
          ))}
          {ELSEWHERE.map(([keys, said]) => (
            <div key={keys}>
              <dt>
                <kbd>{keys}</kbd>
              </dt>
              <dd>{said}</dd>
            </div>
          ))}
        </dl>
        <button type="button" onClick={() => dialog.current!.close()}>
          Close
        </button>
      </dialog>
    </>
  );
}
