/** The map that moves: Leaflet over a layer's queries (down) and keys (across), kept at the place the state names. */

import L from "leaflet";
import { type MutableRef, useEffect, useRef, useState } from "preact/hooks";
import type { Layer } from "../description";
import { useSession, useSize, useStore } from "../session";
import { LEAST_ZOOM, MAX_ZOOM } from "../state";

export interface Moving {
  frame: MutableRef<HTMLDivElement | null>; // what the map is in
  size: { width: number; height: number };
  map: MutableRef<L.Map | null>;
  zoom: number;
  moves: number; // how often it moved: what is drawn upon it is drawn anew
  /** From a query and key to CSS pixels within the frame. */
  point(query: number, key: number): L.Point | null;
}

export function useMap(): Moving {
  const { store, inCell } = useSession();
  const { state, layer } = useStore();
  const [frame, size] = useSize<HTMLDivElement>();
  const map = useRef<L.Map | null>(null);
  const [view, setView] = useState({ zoom: 0, moves: 0 });

  // A map that shows the whole does so on any screen: only what its user does puts a place into the address.
  const quiet = useRef(false);
  const quietly = (move: () => void): void => {
    quiet.current = true;
    move();
    quiet.current = false;
  };

  useEffect(() => {
    const made = L.map(frame.current!, {
      crs: L.CRS.Simple,
      attributionControl: false,
      zoomControl: false,
      keyboard: false,
      zoomSnap: 0,
      zoomDelta: 1,
      wheelPxPerZoomLevel: 110,
      wheelDebounceTime: 20,
      scrollWheelZoom: !inCell, // in a notebook a wheel is the notebook's, until the map is in use
      minZoom: LEAST_ZOOM,
      maxZoom: MAX_ZOOM,
      maxBoundsViscosity: 0.8,
      bounceAtZoomLimits: false,
      fadeAnimation: false,
      doubleClickZoom: true,
    });
    map.current = made;
    fit(made, layer);
    const { x, y, zoom } = store.state;
    if (zoom !== null) made.setView([-(y ?? layer.queries / 2), x ?? layer.keys / 2], zoom, { animate: false });
    const moved = (): void => setView(({ moves }) => ({ zoom: made.getZoom(), moves: moves + 1 }));
    made.on("move zoom viewreset resize", moved);
    made.on("moveend", () => {
      if (quiet.current) return;
      const { lat, lng } = made.getCenter();
      store.set({ x: lng, y: -lat, zoom: made.getZoom() });
    });
    moved();
    return () => {
      // Leaflet ends a zoom that it animates a quarter of a second later, on a map that is gone by then.
      (made as unknown as { _animatingZoom: boolean })._animatingZoom = false;
      made.remove();
      map.current = null;
    };
  }, [layer.queries, layer.keys]);

  // Back and forward move the map too.
  useEffect(() => {
    const made = map.current!;
    const { x, y, zoom } = state;
    if (zoom === null) {
      quietly(() => fit(made, layer));
      return;
    }
    const { lat, lng } = made.getCenter();
    const away = Math.hypot((x ?? lng) - lng, (y ?? -lat) + lat) * 2 ** zoom;
    if (away > 2 || Math.abs(zoom - made.getZoom()) > 0.01) {
      quietly(() => made.setView([-(y ?? -lat), x ?? lng], zoom, { animate: false }));
    }
  }, [state.x, state.y, state.zoom]);

  useEffect(() => {
    const made = map.current!;
    quietly(() => {
      made.invalidateSize({ animate: false, pan: false });
      made.setMinZoom(LEAST_ZOOM);
      const whole = made.getBoundsZoom(boundsOf(layer), false, L.point(6, 6));
      made.setMinZoom(Math.min(whole, MAX_ZOOM) - 1);
      made.setMaxBounds(boundsOf(layer).pad(0.6));
      if (store.state.zoom === null) fit(made, layer);
    });
  }, [size.width, size.height, layer.queries, layer.keys]);

  // The crosshair stays in sight.
  useEffect(() => {
    if (state.query === null || state.key === null || !map.current) return;
    const place: L.LatLngTuple = [-(state.query + 0.5), state.key + 0.5];
    if (!map.current.getBounds().contains(place)) map.current.panTo(place, { animate: false });
  }, [state.query, state.key]);

  return {
    frame,
    size,
    map,
    ...view,
    point: (query, key) => map.current?.latLngToContainerPoint([-query, key]) ?? null,
  };
}

export function boundsOf(layer: Layer): L.LatLngBounds {
  return L.latLngBounds([-layer.queries, 0], [0, layer.keys]);
}

/** Brings the whole map into sight. */
function fit(map: L.Map, layer: Layer): void {
  map.fitBounds(boundsOf(layer), { animate: false, maxZoom: MAX_ZOOM, padding: [6, 6] });
}
