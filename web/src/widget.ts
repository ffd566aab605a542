/** The page in a notebook's cell, through anywidget. */

import { read } from "./description";
import { mount } from "./mount";
import { EmbeddedSource } from "./source/embedded";
import type { Address } from "./store";

interface Model {
  get(name: "run"): string;
  get(name: "chunks"): DataView[];
  get(name: "height"): number | undefined;
  get(name: "fragment"): string | undefined;
  set?(name: "fragment", value: string): void;
  save_changes?(): void;
  on?(event: "change:fragment", heard: () => void): void;
  off?(event: "change:fragment", heard: () => void): void;
}

/** What is seen, as Python reads and sets it. */
function addressOf(model: Model): Address {
  let own = model.get("fragment") ?? "";
  return {
    read: () => model.get("fragment") ?? "",
    write: (fragment) => {
      if (own === fragment) return;
      own = fragment;
      model.set?.("fragment", fragment);
      model.save_changes?.();
    },
    listen: (changed) => {
      const heard = (): void => {
        const now = model.get("fragment") ?? "";
        if (now === own) return; // what was written here
        own = now;
        changed();
      };
      model.on?.("change:fragment", heard);
      return () => model.off?.("change:fragment", heard);
    },
  };
}

const SHORT = 480; // CSS pixels of a cell whose tools are folded away

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const description = read(model.get("run"));
  const chunks = model.get("chunks");
  const source = new EmbeddedSource(description, (index) => {
    const { buffer, byteOffset, byteLength } = chunks[index];
    return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
  });
  const place = document.createElement("div");
  place.classList.add("in-cell");
  const height = model.get("height") ?? 640;
  place.classList.toggle("short", height <= SHORT);
  place.style.height = `${height}px`;
  el.append(place);
  place.dataset.lmSuppressShortcuts = "true"; // JupyterLab: keys pressed here are the page's own
  return mount(place, source, addressOf(model), true);
}

export default { render };
