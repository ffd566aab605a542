/** Focus within a view: one stop of the Tab key for a group, arrows within it; and the token that is looked at. */

import { type MutableRef, useEffect, useRef, useState } from "preact/hooks";
import { type Axis, extent } from "./description";
import { useStore } from "./session";

type Stop = string | number;

/**
 * One stop of the Tab key for a group of elements that have `data-stop`, and keys that move among them.
 *
 * `first` is where Tab comes in where nothing was focused yet, or what was is gone; `move` says where a key leads, null
 * where it leads nowhere.
 */
export function useRoving<T extends Stop>(
  first: T,
  holds: (stop: T) => boolean,
  move: (key: string, from: T, group: HTMLElement) => T | null,
): {
  group: MutableRef<HTMLDivElement | null>;
  onKeyDown(event: KeyboardEvent): void;
  stop(of: T): { "data-stop": T; tabIndex: number };
  came(to: T): void;
} {
  const group = useRef<HTMLDivElement>(null);
  const [last, came] = useState<T | null>(null);
  const at = last !== null && holds(last) ? last : first;
  return {
    group,
    came,
    stop: (of) => ({ "data-stop": of, tabIndex: of === at ? 0 : -1 }),
    onKeyDown: (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey) return;
      const to = move(event.key, at, group.current!);
      if (to === null) return;
      event.preventDefault();
      if (!holds(to)) return;
      came(to);
      const stops = [...group.current!.querySelectorAll<HTMLElement>("[data-stop]")];
      stops.find(({ dataset }) => dataset.stop === `${to}`)?.focus();
    },
  };
}

/** A query or key. */
export interface Place {
  axis: Axis;
  index: number;
}

export function samePlace(one: Place | null, other: Place | null): boolean {
  return one?.axis === other?.axis && one?.index === other?.index;
}

/**
 * The token that is looked at: under the pointer or the focus, else the pinned one of the state. A pin lets go of the
 * other axis, a second one of itself; what is hovered is forgotten when `parts` change.
 */
export function usePlace(parts: readonly unknown[]): {
  pinned: Place | null;
  hovered: Place | null;
  sought: Place | null; // where a jump led: it is brought into sight
  hover(place: Place | null): void;
  seek(place: Place): void;
  pin(place: Place, event?: { detail: number }): void;
} {
  const { state, layer, set } = useStore();
  const [last, hover] = useState<Place | null>(null);
  const [sought, seek] = useState<Place | null>(null);
  useEffect(() => hover(null), parts);
  const hovered = last !== null && last.index < extent(layer, last.axis) ? last : null; // of this layer
  const pinned: Place | null =
    state.query !== null
      ? { axis: "query", index: state.query }
      : state.key !== null
        ? { axis: "key", index: state.key }
        : null;
  return {
    pinned,
    hovered,
    sought,
    hover,
    seek,
    pin: (place, event) => {
      if (event && event.detail > 1) return; // the second click of a double click takes nothing back
      const other = place.axis === "query" ? "key" : "query";
      set(samePlace(pinned, place) ? { query: null, key: null } : { [place.axis]: place.index, [other]: null }, true);
    },
  };
}
