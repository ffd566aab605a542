/** What the colors of weights mean: the one key to every view's shades, lines and maps. */

import { type Ramp, type Rgb, css, gradient, hiddenColor, ticksOf } from "./colors";
import type { Layer } from "./description";
import { tickText } from "./numbers";
import { Segmented } from "./controls";
import { useStore } from "./session";
import { type Strength, strengthsOf } from "./state";

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
  return (
    <figure class="legend" aria-label={`Color scale: ${props.unit}, ${tickText(low)} to ${tickText(top)}, ${scale}`}>
      <figcaption>{props.unit}</figcaption>
      <div class="legend-bar" style={{ background: gradient(props.color) }} />
      <div class="legend-ticks">
        {ticksOf(props.ramp).map((tick) => (
          <span key={tick}>{tick}</span>
        ))}
      </div>
      <p class="legend-notes">
        {props.largest !== undefined && <span class="legend-largest">{props.said ?? "largest"} {props.largest ?? "\u2026"}</span>}
        {props.layer !== null && (props.layer.global_keys ?? props.layer.global_queries) !== undefined && (
          <span class="legend-global" title="Global tokens: every query sees them as keys, or they see every key as queries">
            global
          </span>
        )}
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
  const { scale, set } = useStore();
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
      <StrengthSwitch />
    </>
  );
}

const ENDS: Record<Strength, [text: string, hint: string]> = {
  absolute: ["0 to 1", "Absolute: a color is the same weight in every head, layer and view"],
  relative: ["to largest", "Relative: the strongest color is the largest of what is shown"],
  robust: ["to 99 %", "The strongest color is what one in a hundred is beyond, so that a few large ones don\u2019t leave the rest light"],
  row: ["by row", "Each query\u2019s weights as shares of its own largest"],
};

export function StrengthSwitch() {
  const { state, strength, set } = useStore();
  return (
    <Segmented
      name="Far end of the colors"
      value={strength}
      choices={strengthsOf(state).map((one) => [one, ...ENDS[one]] as const)}
      onChange={(strength) => set({ strength }, true)}
    />
  );
}
