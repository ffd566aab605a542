/** The page of `attnviz html` and `attnviz view`. */

import { read } from "./description";
import { complain, mount } from "./mount";
import { EmbeddedSource } from "./source/embedded";
import { LiveSource } from "./source/live";
import { FRAGMENT } from "./store";

/** A chunk's text, which then leaves the page: the worker keeps its bytes. */
function chunk(index: number): string {
  const element = document.getElementById(`attnviz-chunk-${index}`);
  const text = element?.textContent;
  if (!element || !text) throw new Error(`the file has no chunk ${index}: it was cut short`);
  element.textContent = "";
  return text;
}

const place = document.getElementById("attnviz")!;
try {
  const description = read(document.getElementById("attnviz-run")!.textContent!);
  document.body.style.margin = "0";
  const source =
    description.mode === "live"
      ? new LiveSource(description, document.baseURI.replace(/#.*/, ""))
      : new EmbeddedSource(description, chunk);
  mount(place, source, FRAGMENT);
} catch (error) {
  complain(place, (error as Error).message);
}
