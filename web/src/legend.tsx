/** What the colors of weights mean. */

import { type Ramp, css, sequential } from "./colors";
import { tickText } from "./numbers";

const GRADIENT = `linear-gradient(to right, ${Array.from({ length: 17 }, (_, i) => css(sequential(i / 16))).join()})`;

export function Legend(props: { ramp: Ramp; unit: string; gradient?: string }) {
  const { scale, low, top } = props.ramp;
  const middle = scale === "log" ? Math.sqrt(low * top) : (low + top) / 2;
  return (
    <figure class="legend" aria-label={`Color scale: ${props.unit}, ${tickText(low)} to ${tickText(top)}, ${scale}`}>
      <figcaption>{props.unit}</figcaption>
      <div class="legend-bar" style={{ background: props.gradient ?? GRADIENT }} />
      <div class="legend-ticks">
        <span>{scale === "log" ? `\u2264 ${tickText(low)}` : tickText(low)}</span>
        <span>{tickText(middle)}</span>
        <span>{tickText(top)}</span>
      </div>
    </figure>
  );
}
