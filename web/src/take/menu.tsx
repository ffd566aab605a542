/** Taking away what is seen: a picture, its numbers, the command and the Python that make it, a link. */

import { useEffect, useRef, useState } from "preact/hooks";
import { useSession, useStore } from "../session";
import { type State, isCompared, strengthOf } from "../state";
import { useLink } from "../views/query-key";
import { commandOf, pythonOf } from "./commands";
import { csv } from "./csv";
import { type Taken, take } from "./figures";
import { partOf } from "./part";

const SHARP = 2; // pixels of a PNG for each of the drawing

export function TakeMenu(props: { dark: boolean }) {
  const session = useSession();
  const { source, description, inCell, announce } = session;
  const { state: now, layer } = useStore();
  const link = useLink(now.view === "query-key" && !layer.given && layer.kept === undefined);
  const state = link ? { ...now, ...link } : now; // the pair that is seen is not always pinned
  const [open, setOpen] = useState(false);
  const [copied, setCopied] = useState<{ what: string; text: string } | null>(null);
  const [failed, setFailed] = useState<string | null>(null);
  const box = useRef<HTMLDivElement>(null);
  useEffect(() => setCopied(null), [now, open]);
  useEffect(() => {
    if (!open) return undefined;
    const root = box.current!.getRootNode() as Document | ShadowRoot;
    const away = (event: Event): void => {
      if (!event.composedPath().includes(box.current!)) setOpen(false);
    };
    root.addEventListener("pointerdown", away);
    return () => root.removeEventListener("pointerdown", away);
  }, [open]);

  const seen = () => {
    const frame = box.current!.closest(".app")?.querySelector<HTMLElement>(".map-leaflet");
    const size = { width: frame?.clientWidth ?? 0, height: frame?.clientHeight ?? 0 };
    return { source, description, state, dark: props.dark, part: partOf(state, description, size) };
  };
  const save = async (ending: string, make: (taken: Taken) => Blob | Promise<Blob>): Promise<void> => {
    setFailed(null);
    try {
      const taken = await take(seen());
      download(await make(taken), `${taken.name}.${ending}`);
      announce(`saved ${taken.name}.${ending}`);
    } catch (error) {
      setFailed((error as Error).message);
    }
  };
  const copy = async (what: string, text: string): Promise<void> => {
    setCopied({ what: (await toClipboard(text)) ? `${what}: copied` : `${what}: copy it from here`, text });
    announce(what);
  };
  const part = open && box.current ? seen().part : null;
  const command = part && commandOf(state, description, part, props.dark);
  const python = part && pythonOf(state, description, part, props.dark);
  return (
    <div
      class="take"
      ref={box}
      onKeyDown={(event) => {
        if (event.key !== "Escape" || !open) return;
        event.stopPropagation();
        setOpen(false);
        box.current!.querySelector<HTMLElement>("button")!.focus();
      }}
    >
      <button type="button" class="take-open" aria-expanded={open} aria-haspopup="true" title="Take away what is seen" onClick={() => setOpen(!open)}>
        Save
      </button>
      {open && (
        <div class="take-menu" role="group" aria-label="Take away what is seen">
          <div class="take-row">
            <button type="button" onClick={() => save("png", ({ svg }) => toPng(svg()))}>
              PNG
            </button>
            <button type="button" onClick={() => save("svg", ({ svg }) => new Blob([svg()], { type: "image/svg+xml" }))}>
              SVG
            </button>
            <button type="button" onClick={() => save("csv", ({ rows }) => new Blob([csv(rows)], { type: "text/csv" }))}>
              CSV
            </button>
          </div>
          <button type="button" disabled={command === null} title={command ?? undefined} onClick={() => copy("Command", command!)}>
            Copy as command
          </button>
          <button type="button" disabled={python === null} title={python ?? undefined} onClick={() => copy("Python", python!)}>
            Copy as Python
          </button>
          {part && (command === null || python === null) && <p class="muted take-why">{whyNot(state, command === null, python === null)}</p>}
          {!inCell && (
            <button type="button" onClick={() => copy("Link", session.store.link(location.href))}>
              Copy a link
            </button>
          )}
          {copied && (
            <label class="take-copied">
              <span class="muted">{copied.what}</span>
              <textarea readOnly rows={Math.min(8, 1 + copied.text.trim().split("\n").length + Math.floor(copied.text.length / 44))} value={copied.text} onFocus={({ currentTarget }) => currentTarget.select()} />
            </label>
          )}
          {failed && <p class="failure" role="alert">{failed}</p>}
        </div>
      )}
    </div>
  );
}

/** Why there is nothing to copy, in words. */
function whyNot(state: State, command: boolean, python: boolean): string {
  const what = command && python ? "No command and no Python" : command ? "No command" : "No Python";
  if (isCompared(state)) return `${what} makes two heads at once.`;
  if (strengthOf(state) === "row") return `${what} makes colors by row.`;
  return `${what} makes this: what it was made of has no name there.`;
}

function download(content: Blob, name: string): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(content);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** A drawing as pixels. */
async function toPng(svg: string): Promise<Blob> {
  const image = new Image();
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(svg)}`;
  await image.decode();
  const sharp = Math.min(SHARP, 16_000 / Math.max(image.naturalWidth, image.naturalHeight));
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(image.naturalWidth * sharp);
  canvas.height = Math.round(image.naturalHeight * sharp);
  canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
  return new Promise((resolve, reject) =>
    canvas.toBlob((made) => (made ? resolve(made) : reject(new Error("this picture is too large for the browser; save it as SVG")))),
  );
}

/** Whether a text is on the clipboard now. */
async function toClipboard(text: string): Promise<boolean> {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = document.createElement("textarea");
    area.value = text;
    area.style.position = "fixed";
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}
