/** The map in a few cells, in its place while a pass over the whole is under way. */

import { useRef } from "preact/hooks";
import { known } from "../answers";
import { THUMBNAIL } from "../questions";
import { countText } from "../numbers";
import { useAnswer, usePass, useStore } from "../session";
import { useThumbnail } from "../views/model";
import type { Thumbnail } from "../source/source";
import type { Moving } from "./leaflet";

export function Coarse(props: { moving: Moving; dark: boolean }) {
  const { state } = useStore();
  const { layer, head } = state;
  const pass = usePass("map", layer, head);
  const found = known(useAnswer(THUMBNAIL, pass ? { layer, head, all: false } : null));
  return pass && found && <FewCells found={found} {...props} />;
}

function FewCells(props: { found: Thumbnail; moving: Moving; dark: boolean }) {
  const { layer } = useStore();
  const { found, moving, dark } = props;
  const canvas = useRef<HTMLCanvasElement>(null);
  useThumbnail(canvas, layer, found, dark);
  const [from, to] = [moving.point(0, 0), moving.point(layer.queries, layer.keys)];
  return (
    <>
      <canvas
        class="map-coarse"
        ref={canvas}
        aria-hidden="true"
        style={from && to ? { left: from.x, top: from.y, width: to.x - from.x, height: to.y - from.y } : { display: "none" }}
      />
      <p class="map-coarse-said">
        so far in few cells{found.queries === null ? "" : `, of ${countText(found.queries)} of ${countText(layer.queries)} queries`}
      </p>
    </>
  );
}
