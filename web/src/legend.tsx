/** What the colors of weights mean: the one key to every view's shades, lines and maps. */

import { type Ramp, type Rgb, css, gradient, hiddenColor } from "./colors";
import type { Layer } from "./description";
import { tickText } from "./numbers";
import { Segmented } from "./controls";
import { useStore } from "./session";

export function Legend(props: {
  ramp: Ramp;
  unit: string;
  color(share: number): Rgb;
  dark: boolean;
  layer: Layer | null; // whose pattern hides what is not visible; null where nothing is hidden
  largest?: string | null; // in words; null until it is known
  said?: string; // what that is the largest of
}) {
  const { scale, low, top } = props.ramp;
  const [least, middle] = props.ramp.signed
    ? [`\u2212${tickText(top)}`, scale === "log" ? `\u00b1${tickText(low)}` : "0"]
    : scale === "log"
      ? [`0 to ${tickText(low)}`, tickText(Math.sqrt(low * top))]
      : [tickText(low), tickText((low + top) / 2)];
  return (
    <figure class="legend" aria-label={`Color scale: ${props.unit}, ${tickText(low)} to ${tickText(top)}, ${scale}`}>
      <figcaption>{props.unit}</figcaption>
      <div class="legend-bar" style={{ background: gradient(props.color) }} />
      <div class="legend-ticks">
        <span>{least}</span>
        <span>{middle}</span>
        <span>{tickText(top)}</span>
      </div>
      <p class="legend-notes">
        {props.largest !== undefined && <span class="legend-largest">{props.said ?? "largest"} {props.largest ?? "\u2026"}</span>}
        {props.layer !== null && <NotVisible dark={props.dark} pattern={props.layer.pattern} />}
      </p>
    </figure>
  );
}

function NotVisible(props: { dark: boolean; pattern: string }) {
  return (
    <span class="legend-hidden" title={`The query does not see the key: it takes no part in its softmax (${props.pattern}, padding, a mask)`}>
      <i style={{ background: css(hiddenColor(props.dark)) }} /> not visible
    </span>
  );
}

/** Linear or log, and what the far end of the colors is: of every view that has colors of weights. */
export function ScaleSwitches() {
  const { scale, state, set } = useStore();
  return (
    <>
      <Segmented
        name="Color scale"
        value={scale}
        choices={[
          ["linear", "linear"],
          ["log", "log", "Small weights apart from each other"],
        ]}
        onChange={(chosen) => set({ scale: chosen }, true)}
      />
      <StrengthSwitch value={state.strength} />
    </>
  );
}

export function StrengthSwitch(props: { value: "absolute" | "relative" }) {
  const { set } = useStore();
  return (
    <Segmented
      name="Far end of the colors"
      value={props.value}
      choices={[
        ["absolute", "0 to 1", "Absolute: a color is the same weight in every head, layer and view"],
        ["relative", "to largest", "Relative: the strongest color is the largest of what is shown"],
      ]}
      onChange={(strength) => set({ strength }, true)}
    />
  );
}
