import { useCallback, useMemo, useRef, useState } from "preact/hooks";

import type { Model } from "../generated/endoscope/v1/model_pb";
import { Empty } from "../parts/Banner";
import { link } from "../router";
import { type Box, type Drawing, draw, MOST_NODES, NAMES, path } from "./drawing";
import { useView } from "./view";

export function GraphView({ id, model }: { id: string; model: Model }) {
  const drawing = useMemo(() => (model.nodes.length <= MOST_NODES ? draw(model) : undefined), [model]);
  if (!drawing) {
    return (
      <Empty title="Too large to be drawn">
        The graph has {model.nodes.length.toLocaleString("en")} nodes; the list of layers has them all.
      </Empty>
    );
  }
  return <Plane id={id} drawing={drawing} />;
}

const PAN = 60;

function Plane({ id, drawing }: { id: string; drawing: Drawing }) {
  const frame = useRef<HTMLDivElement>(null);
  const first = useCallback(
    (box: DOMRect) => {
      const scale = Math.min(1, box.width / drawing.width);
      return { scale, x: (box.width - drawing.width * scale) / 2, y: 40 };
    },
    [drawing],
  );
  const { view, zoom, pan, centre, reset, fit } = useView(frame, { ...drawing, first });
  const [chosen, setChosen] = useState(drawing.boxes[0]?.id ?? "");
  const boxes = useMemo(() => new Map(drawing.boxes.map((box) => [box.id, box])), [drawing]);
  const pressed = useRef({ x: 0, y: 0 });

  function step(forward: boolean) {
    const ends = drawing.lines
      .filter((line) => (forward ? line.from : line.to) === chosen)
      .map((line) => boxes.get(forward ? line.to : line.from)!);
    const here = boxes.get(chosen);
    const next = ends.sort((a, b) => Math.abs(a.x - here!.x) - Math.abs(b.x - here!.x))[0];
    if (!next) return;
    setChosen(next.id);
    centre(next.x, next.y);
  }

  function sideways(right: boolean) {
    const here = boxes.get(chosen)!;
    const beside = drawing.boxes
      .filter((box) => Math.abs(box.y - here.y) < 20 && (right ? box.x > here.x : box.x < here.x))
      .sort((a, b) => Math.abs(a.x - here.x) - Math.abs(b.x - here.x))[0];
    if (beside) {
      setChosen(beside.id);
      centre(beside.x, beside.y);
    }
  }

  const open = (box: Box | undefined) => {
    if (box?.layer) location.hash = link(id, "layer", box.layer);
  };

  const keys: Record<string, (shift: boolean) => void> = {
    ArrowDown: (shift) => (shift ? pan(0, -PAN) : step(true)),
    ArrowUp: (shift) => (shift ? pan(0, PAN) : step(false)),
    ArrowRight: (shift) => (shift ? pan(-PAN, 0) : sideways(true)),
    ArrowLeft: (shift) => (shift ? pan(PAN, 0) : sideways(false)),
    "+": () => zoom(1.25),
    "=": () => zoom(1.25),
    "-": () => zoom(0.8),
    "0": fit,
    Enter: () => open(boxes.get(chosen)),
  };

  const here = boxes.get(chosen);
  return (
    <div class="graph">
      <div class="graph-tools">
        <button type="button" class="button quiet icon" aria-label="Zoom in" onClick={() => zoom(1.25)}>
          +
        </button>
        <button type="button" class="button quiet icon" aria-label="Zoom out" onClick={() => zoom(0.8)}>
          −
        </button>
        <button type="button" class="button quiet" onClick={fit}>
          Whole
        </button>
        <button type="button" class="button quiet" onClick={reset}>
          Top
        </button>
      </div>
      <div
        class="graph-frame"
        ref={frame}
        tabIndex={0}
        role="application"
        aria-label="The graph. Arrow keys go from node to node, with Shift they move the drawing; plus and minus zoom, 0 shows all of it, Enter opens a layer."
        onKeyDown={(event) => {
          const act = keys[event.key];
          if (!act || event.ctrlKey || event.metaKey || event.altKey) return;
          event.preventDefault();
          act(event.shiftKey);
        }}
        onPointerDown={(event) => {
          pressed.current = { x: event.clientX, y: event.clientY };
        }}
      >
        <svg aria-hidden="true">
          <g transform={`translate(${view.x} ${view.y}) scale(${view.scale})`}>
            <Lines drawing={drawing} />
            {drawing.boxes.map((box) => (
              <g
                key={box.id}
                class={`node ${box.kind} ${box.layer ? "opens" : ""} ${box.id === chosen ? "chosen" : ""}`}
                transform={`translate(${box.x - box.width / 2} ${box.y - box.height / 2})`}
                onClick={(event) => {
                  // The end of a drag is no click.
                  if (Math.hypot(event.clientX - pressed.current.x, event.clientY - pressed.current.y) > 5) return;
                  setChosen(box.id);
                  open(box);
                }}
              >
                <rect width={box.width} height={box.height} rx="5" />
                <text x="11" y="17">
                  {box.title}
                </text>
                <text x="11" y="31" class="under">
                  {box.under}
                </text>
              </g>
            ))}
          </g>
        </svg>
        <p class="hidden" aria-live="polite">
          {here ? `${here.title}, ${here.under}` : ""}
        </p>
      </div>
      <ul class="legend small muted" aria-label="Colours">
        {NAMES.filter((name) => drawing.boxes.some((box) => box.kind === name)).map((name) => (
          <li key={name}>
            <span class={`swatch ${name}`} aria-hidden="true" /> {name}
          </li>
        ))}
      </ul>
    </div>
  );
}

function Lines({ drawing }: { drawing: Drawing }) {
  return useMemo(
    () => (
      <g class="edges">
        {drawing.lines.map((line) => (
          <path key={line.id} d={path(line.points)} />
        ))}
      </g>
    ),
    [drawing],
  );
}
