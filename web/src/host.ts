/** Where the page stands. */

import type { Signal } from "./signal";

/** What the page is in: a window of its own, or a notebook's cell. */
export interface Host {
  /** What ids of elements begin with: a notebook holds several pages. */
  prefix: string;
  /** Whether it is a notebook's cell, and a wheel is the notebook's. */
  inCell: boolean;
  /** Whether what is around the page is dark. */
  dark: Signal<boolean>;
}
