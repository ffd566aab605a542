/** Several texts, runs or batch items in one page, chosen by name. */

import { Field } from "./controls";
import { layersOf } from "./description";
import { useSession, useStore } from "./session";

/** Which of several texts is shown: its layer of the same name, else its first; `alone`: nothing else changes. */
export function TextPicker(props: { alone?: boolean }) {
  const { description } = useSession();
  const { layer, set } = useStore();
  const texts = [...new Set(description.layers.flatMap(({ text }) => (text === undefined ? [] : [text])))];
  if (texts.length < 2) return null;
  const choose = (text: string): void => {
    const of = layersOf(description, text);
    const same = of.find((index) => description.layers[index].label === layer.label);
    const rest = { query: null, key: null, first: 0, keys: null, other: null, sides: null };
    set({ layer: same ?? of[0], ...(props.alone ? {} : rest) }, true);
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
