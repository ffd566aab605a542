/** What every view is given, and how it waits for numbers. */

import { createContext } from "preact";
import { type MutableRef, useContext, useEffect, useRef, useState } from "preact/hooks";
import type { Description, Layer } from "./description";
import { type Source, isAbort } from "./source/source";
import { type Scale, type State, scaleOf } from "./state";
import type { Store } from "./store";

export interface Session {
  store: Store;
  source: Source;
  description: Description;
  /** Says something to people who listen to the page. */
  announce(text: string): void;
  /** Shows what went wrong; null takes it away. */
  fail(message: string | null): void;
}

export const SessionContext = createContext<Session | null>(null);

export function useSession(): Session {
  return useContext(SessionContext)!;
}

/** The state, the layer it names and the color scale; what calls this is drawn again when it changes. */
export function useStore(): { state: State; layer: Layer; scale: Scale; set: Store["set"] } {
  const { store, description } = useSession();
  const [, redraw] = useState(0);
  useEffect(() => store.subscribe(() => redraw((count) => count + 1)), [store]);
  const { state } = store;
  return {
    state,
    layer: description.layers[state.layer],
    scale: scaleOf(state, description),
    set: (patch, push) => store.set(patch, push),
  };
}

/**
 * The newest answer to what `ask` asks whenever `parts` change; an older question is stopped. Keeps the last answer while
 * the next is on its way; `fresh` says whether it is the one to `parts`.
 */
export function useAnswer<T>(
  ask: (signal: AbortSignal) => Promise<T> | null,
  parts: readonly unknown[],
): { value: T | null; fresh: boolean } {
  const session = useSession();
  const name = parts.join("/");
  const [answer, setAnswer] = useState<{ value: T | null; name: string }>({ value: null, name: "" });
  useEffect(() => {
    const stop = new AbortController();
    const asked = ask(stop.signal);
    if (!asked) {
      setAnswer({ value: null, name });
      return undefined;
    }
    asked.then(
      (value) => {
        if (stop.signal.aborted) return;
        setAnswer({ value, name });
        session.fail(null);
      },
      (error: unknown) => {
        if (!isAbort(error) && !stop.signal.aborted) session.fail((error as Error).message);
      },
    );
    return () => stop.abort();
  }, [session.source, name]);
  return { value: answer.value, fresh: answer.name === name };
}

/** Brings the pinned token of a list into the middle of what scrolls around it, where it is out of sight. */
export function usePinnedInSight(list: MutableRef<HTMLElement | null>, parts: readonly unknown[]): void {
  useEffect(() => {
    const pinned = list.current?.querySelector('[data-position][aria-pressed="true"]');
    if (!pinned) return;
    // Not scrollIntoView, which would scroll the notebook that the page is in as well.
    const scrolls = (box: Element): boolean =>
      box.scrollHeight > box.clientHeight && /auto|scroll/.test(getComputedStyle(box).overflowY);
    let box = pinned.parentElement;
    while (box && !scrolls(box)) box = box.classList.contains("attnviz") ? null : box.parentElement;
    if (!box) return;
    const [own, seen] = [pinned.getBoundingClientRect(), box.getBoundingClientRect()];
    if (own.top < seen.top || own.bottom > seen.bottom) box.scrollTop += (own.top + own.bottom - seen.top - seen.bottom) / 2;
  }, parts);
}

/** An element's size, as it changes. */
export function useSize<T extends Element>(): [MutableRef<T | null>, { width: number; height: number }] {
  const element = useRef<T | null>(null);
  const [size, setSize] = useState({ width: 0, height: 0 });
  useEffect(() => {
    const watcher = new ResizeObserver(([{ contentRect }]) => {
      setSize({ width: contentRect.width, height: contentRect.height });
    });
    if (element.current) watcher.observe(element.current);
    return () => watcher.disconnect();
  }, []);
  return [element, size];
}
