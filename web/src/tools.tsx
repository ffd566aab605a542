/** What is done with any view: which text, what is found, compared and left out. */

import { useState } from "preact/hooks";
import { CompareControls, Seen } from "./compare/compare";
import { Field } from "./controls";
import { FindField } from "./find/find";
import { Shortcuts } from "./keys";
import { MadeControls } from "./made/session";
import { useSession, useStore } from "./session";
import { TakeMenu } from "./take/menu";

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

/** Which of several texts is shown: its layer of the same name, else its first. */
function TextPicker() {
  const { description } = useSession();
  const { layer, set } = useStore();
  const texts = [...new Set(description.layers.flatMap(({ text }) => (text === undefined ? [] : [text])))];
  if (texts.length < 2) return null;
  const choose = (text: string): void => {
    const of = description.layers.flatMap((one, index) => (one.text === text ? [index] : []));
    const same = of.find((index) => description.layers[index].label === layer.label);
    set({ layer: same ?? of[0], query: null, key: null, first: 0, keys: null, other: null, sides: null }, true);
  };
  return (
    <Field name="text">
      <select class="text-picker" value={layer.text ?? ""} onChange={({ currentTarget }) => choose(currentTarget.value)}>
        {texts.map((text) => (
          <option key={text} value={text}>
            {text}
          </option>
        ))}
      </select>
    </Field>
  );
}
