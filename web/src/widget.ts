/** The page in a notebook's cell, through anywidget. */

import { read } from "./description";
import { mount } from "./mount";
import { EmbeddedSource } from "./source/embedded";
import { NOWHERE } from "./store";

interface Model {
  get(name: "run"): string;
  get(name: "chunks"): DataView[];
  get(name: "height"): number | undefined;
}

function render({ model, el }: { model: Model; el: HTMLElement }): () => void {
  const description = read(model.get("run"));
  const chunks = model.get("chunks");
  const source = new EmbeddedSource(description, (index) => {
    const { buffer, byteOffset, byteLength } = chunks[index];
    return new Uint8Array(buffer as ArrayBuffer, byteOffset, byteLength);
  });
  const place = document.createElement("div");
  place.classList.add("in-cell");
  place.style.height = `${model.get("height") ?? 640}px`;
  el.append(place);
  return mount(place, source, NOWHERE, true);
}

export default { render };
