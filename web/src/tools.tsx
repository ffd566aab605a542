/** What is done with any view: which text, what is found, compared and left out. */

import { useState } from "preact/hooks";
import { CompareControls, Seen } from "./compare/compare";
import { FindField } from "./find/find";
import { Shortcuts } from "./keys";
import { MadeControls } from "./made/session";
import { TakeMenu } from "./take/menu";
import { TextPicker } from "./texts";

/** The end of the bar: what is taken away, the keys, and where the screen is narrow what opens the tools. */
export function BarEnd(props: { dark: boolean; opened: boolean; onOpen(): void }) {
  return (
    <>
      <button type="button" class="tools-open" aria-expanded={props.opened} onClick={props.onOpen}>
        Tools
      </button>
      <Seen>
        <TakeMenu dark={props.dark} />
      </Seen>
      <Shortcuts />
    </>
  );
}

export function Tools(props: { opened: boolean }) {
  return (
    <div class={`tools ${props.opened ? "opened" : ""}`} role="group" aria-label="Tools of every view">
      <TextPicker />
      <FindField />
      <CompareControls />
      <MadeControls />
    </div>
  );
}

export function useOpened(): [boolean, () => void] {
  const [opened, setOpened] = useState(false);
  return [opened, () => setOpened(!opened)];
}
