/** What makes the figure that is seen again: a command of the shell, and Python. */

import { type Description, type Layer, type Origin, headName, layersOf } from "../description";
import type { Window } from "../questions";
import { type State, isCompared, scaleOf, strengthOf } from "../state";

/** The part of a map that is seen. */
export interface Part {
  queries: Window;
  keys: Window;
}

/** A figure as both ways to make it say it. */
interface Figure {
  command: string; // the subcommand, or the function of the library
  python: string;
  heads: number[]; // indices among the page's; none: all
  part: Part | null; // null: all of it
  words: readonly (readonly [option: string, value: string | number | true])[];
  query?: number; // of a strip
  key?: number;
  token?: number;
}

/** The command that makes what is seen, as a shell takes it; null where no words say where it came from. */
export function commandOf(state: State, description: Description, part: Part, dark: boolean): string | null {
  const layer = description.layers[state.layer];
  const { origin } = layer;
  if (!origin || origin.command === null || isCompared(state) || strengthOf(state) === "row") return null;
  const figure = figureOf(state, description, part, dark);
  const base = figure.command === "overview" ? withLayers(origin.command, description, layer) : origin.command;
  const words = ["attnviz", figure.command, ...(base === "" ? [] : [base])];
  if (figure.heads.length > 0 && origin.head) words.push("--head", figure.heads.map((head) => headName(layer, head)).join());
  if (figure.part !== null) {
    for (const axis of ["queries", "keys"] as const) words.push(`--${axis}`, own(origin, axis, figure.part[axis]).join(":"));
  }
  if (figure.query !== undefined) words.push("--strip", `${figure.query + origin.first[0]}`);
  if (figure.token !== undefined) words.push("--token", `${figure.token + origin.first[0]}`);
  if (figure.key !== undefined) words.push("--key", `${figure.key + origin.first[1]}`);
  for (const [option, value] of figure.words) words.push(`--${option}`, ...(value === true ? [] : [`${value}`]));
  if (figure.command !== "explain") words.push("-o", "attention.png");
  return words.join(" ");
}

/** The Python that does; null where nothing that can be written does. */
export function pythonOf(state: State, description: Description, part: Part, dark: boolean): string | null {
  const layer = description.layers[state.layer];
  const { origin } = layer;
  if (!origin || origin.inputs === null || origin.options === null || isCompared(state) || strengthOf(state) === "row") return null;
  const figure = figureOf(state, description, part, dark);
  const many = figure.python === "plot_overview";
  const inputs = many ? sameText(description, layer).map((one) => one.origin?.inputs) : [origin.inputs];
  const given = [many ? `[${inputs.join(", ")}]` : origin.inputs];
  const named = (values: number[]): string => values.map((head) => headName(layer, head)).join(", ");
  if (figure.query !== undefined) given.push(`query=${figure.query + origin.first[0]}`);
  if (figure.token !== undefined) given.push(`query=${figure.token + origin.first[0]}`);
  if (figure.key !== undefined) given.push(`key=${figure.key + origin.first[1]}`);
  if (origin.head && figure.heads.length > 0) {
    const several = figure.python === "plot_heads" || figure.python === "plot_strip";
    given.push(several ? `heads=[${named(figure.heads)}]` : `head=${named(figure.heads)}`);
  }
  if (origin.options !== "") given.push(origin.options);
  if (figure.part !== null) {
    for (const axis of ["queries", "keys"] as const) given.push(`${axis}=range(${own(origin, axis, figure.part[axis]).join(", ")})`);
  }
  for (const [option, value] of figure.words) {
    if (option === "theme" || option === "detail") continue; // matplotlib's own style; a function of its own
    given.push(`${option}=${value === true ? "True" : typeof value === "string" ? `"${value}"` : value}`);
  }
  const placeholder = /^(inputs|run)\b/.exec(given[0].replace(/^\[/, ""))?.[1];
  const said = placeholder ? `# ${placeholder}: what the page was made of\n` : "";
  return `import attnviz\n\n${said}attnviz.${figure.python}(${given.join(", ")})\n`;
}

function figureOf(state: State, description: Description, part: Part, dark: boolean): Figure {
  const layer = description.layers[state.layer];
  const whole = part.queries[0] === 0 && part.queries[1] === layer.queries && part.keys[0] === 0 && part.keys[1] === layer.keys;
  const shown = whole && !layer.origin?.cropped ? null : part;
  const words: [string, string | number | true][] = [];
  if (scaleOf(state, description) === "log") words.push(["norm", "log"]);
  const strength = strengthOf(state);
  if (strength === "absolute" && state.reduce === "max" && !layer.signed) words.push(["vmax", 1]);
  if (strength === "robust") words.push(["robust", true]);
  if (dark) words.push(["theme", "dark"]);
  const reduced: typeof words = state.reduce === "mass" ? [["reduce", "mass"], ...words] : words;
  switch (state.view) {
    case "map":
      return { command: "plot", python: "plot", heads: [state.head], part: shown, words: reduced };
    case "heads":
      return { command: "plot", python: state.heads.length === 1 ? "plot" : "plot_heads", heads: state.heads, part: shown, words };
    case "model":
      return { command: "overview", python: "plot_overview", heads: [], part: null, words };
    case "text":
      if (state.flow === "gives" && state.query !== null) {
        return { command: "plot", python: "plot_strip", heads: [state.head], part: null, words, query: state.query };
      }
      return { command: "plot", python: "plot_detail", heads: [state.head], part: shown, words: [["detail", true], ...words] };
    case "query-key":
      return pairOf(state, layer, words);
  }
}

/** Of one query and one key: the lesson, where there are products; else their one cell. */
function pairOf(state: State, layer: Layer, words: Figure["words"]): Figure {
  const [query, key] = [state.query ?? layer.queries - 1, state.key ?? 0];
  const base = layer.origin?.command ?? layer.origin?.options ?? "";
  const plain = !/(--|\b)(merge|spans|hide|renormalize|mean|max|rollout|values)\b/.test(base);
  // Of the pattern of global keys alone, a lesson counts keys otherwise.
  if (plain && !layer.given && layer.pattern !== "global") {
    return { command: "explain", python: "explain", heads: [state.head], part: null, words: [], token: query, key };
  }
  const one: Part = { queries: [query, query + 1], keys: [key, key + 1] };
  return { command: "plot", python: "plot", heads: [state.head], part: one, words: [["annot", true], ...words] };
}

function own(origin: Origin, axis: "queries" | "keys", [first, end]: Window): [number, number] {
  const shift = origin.first[axis === "queries" ? 0 : 1];
  return [first + shift, end + shift];
}

/** A page's layers of the text that a layer is of. */
export function sameText(description: Description, { text }: Layer): Layer[] {
  return layersOf(description, text).map((index) => description.layers[index]);
}

/** A layer's words, of all layers of its text. */
function withLayers(command: string, description: Description, layer: Layer): string {
  const without = command.replace(/(^| )--layer \S+/, "");
  const labels = sameText(description, layer).map(({ label }) => label);
  return without === command ? command : `${without} --layer ${labels.join()}`.trim();
}
