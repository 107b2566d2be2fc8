import { useCallback, useEffect, useMemo, useRef, useState } from "preact/hooks";

import { Empty } from "../parts/Banner";
import { useView } from "../graph/view";
import { colorOf, rgb } from "./colors";
import { type Drawer, drawer } from "./points";
import { Thumbnail } from "./Thumbnail";

export interface Place {
  /** Its index in the dataset. */
  item: number;
  name: string;
  label: string;
}

interface Props {
  dataset: string;
  places: readonly Place[];
  /** x and y of each, in units of its own. */
  coordinates: Float32Array;
  chosen: number | undefined;
  onChoose: (index: number) => void;
}

/** The side of the plane that the coordinates are brought to. */
const PLANE = 1000;
const REACH = 14;
const PAN = 60;

function laidOut(coordinates: Float32Array): Float32Array {
  let [left, right, top, bottom] = [Infinity, -Infinity, Infinity, -Infinity];
  for (let at = 0; at < coordinates.length; at += 2) {
    left = Math.min(left, coordinates[at]!);
    right = Math.max(right, coordinates[at]!);
    top = Math.min(top, coordinates[at + 1]!);
    bottom = Math.max(bottom, coordinates[at + 1]!);
  }
  const factor = PLANE / Math.max(right - left, bottom - top, 1e-12);
  const [x, y] = [(PLANE - (right - left) * factor) / 2, (PLANE - (bottom - top) * factor) / 2];
  return coordinates.map((value, index) => (index % 2 ? (value - top) * factor + y : (value - left) * factor + x));
}

export function Scatter({ dataset, places, coordinates, chosen, onChoose }: Props) {
  const frame = useRef<HTMLDivElement>(null);
  const canvas = useRef<HTMLCanvasElement>(null);
  const drawing = useRef<Drawer>(undefined);
  const [broken, setBroken] = useState(false);
  const [hovered, setHovered] = useState<number>();
  const [stood, setStood] = useState<number>();
  const [only, setOnly] = useState<string>();
  const [size, setSize] = useState({ width: 0, height: 0 });
  const pressed = useRef({ x: 0, y: 0 });

  const plane = useMemo(() => laidOut(coordinates), [coordinates]);
  const labels = useMemo(() => [...new Set(places.map((place) => place.label))].sort(), [places]);
  const first = useCallback((box: DOMRect) => {
    const scale = (Math.min(box.width, box.height) * 0.9) / PLANE;
    return { scale, x: (box.width - PLANE * scale) / 2, y: (box.height - PLANE * scale) / 2 };
  }, []);
  const { view, zoom, pan, reset } = useView(frame, { width: PLANE, height: PLANE, least: 0.1, most: 200, first });

  useEffect(() => {
    if (!canvas.current) return;
    drawing.current = drawer(canvas.current);
    setBroken(!drawing.current);
    const watcher = new ResizeObserver(([entry]) => {
      const { width, height } = entry!.contentRect;
      setSize({ width, height });
    });
    watcher.observe(frame.current!);
    return () => {
      watcher.disconnect();
      drawing.current?.free();
    };
  }, []);

  useEffect(() => {
    const colors = new Float32Array(places.length * 3);
    const faint = rgb("#8a8a8e");
    places.forEach((place, index) => {
      const shown = only === undefined || place.label === only;
      colors.set(shown ? rgb(colorOf(labels.indexOf(place.label))) : faint.map((part) => part * 0.9), index * 3);
    });
    drawing.current?.load({ places: plane, colors, count: places.length });
    setSize((now) => ({ ...now }));
  }, [plane, places, labels, only]);

  const dot = Math.min(7, Math.max(2.2, 60 / Math.sqrt(places.length))) * Math.min(2, Math.max(0.8, Math.sqrt(view.scale)));
  useEffect(() => {
    if (size.width) drawing.current?.draw(view, size.width, size.height, devicePixelRatio, dot);
  }, [view, size, dot]);

  const onScreen = (index: number) => ({
    x: plane[2 * index]! * view.scale + view.x,
    y: plane[2 * index + 1]! * view.scale + view.y,
  });

  function nearest(x: number, y: number): number | undefined {
    const [planeX, planeY] = [(x - view.x) / view.scale, (y - view.y) / view.scale];
    let [best, least] = [-1, (REACH / view.scale) ** 2];
    for (let index = 0; index < places.length; index++) {
      const away = (plane[2 * index]! - planeX) ** 2 + (plane[2 * index + 1]! - planeY) ** 2;
      if (away < least) [best, least] = [index, away];
    }
    return best < 0 ? undefined : best;
  }

  function at(event: PointerEvent | MouseEvent): number | undefined {
    const box = frame.current!.getBoundingClientRect();
    return nearest(event.clientX - box.left, event.clientY - box.top);
  }

  /** The point that is nearest in a direction, sideways counting double. */
  function beside(dx: number, dy: number): void {
    const here = stood ?? chosen ?? 0;
    let [best, least] = [here, Infinity];
    for (let index = 0; index < places.length; index++) {
      const [x, y] = [plane[2 * index]! - plane[2 * here]!, plane[2 * index + 1]! - plane[2 * here + 1]!];
      const along = x * dx + y * dy;
      const across = Math.abs(x * dy - y * dx);
      if (along > 1e-6 && along + 2 * across < least) [best, least] = [index, along + 2 * across];
    }
    setStood(best);
  }

  const arrows: Record<string, [number, number]> = {
    ArrowRight: [1, 0],
    ArrowLeft: [-1, 0],
    ArrowDown: [0, 1],
    ArrowUp: [0, -1],
  };

  function key(event: KeyboardEvent): void {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const arrow = arrows[event.key];
    if (arrow) event.shiftKey ? pan(-PAN * arrow[0], -PAN * arrow[1]) : beside(...arrow);
    else if (event.key === "+" || event.key === "=") zoom(1.25);
    else if (event.key === "-") zoom(0.8);
    else if (event.key === "0") reset();
    else if (event.key === "Enter" || event.key === " ") onChoose(stood ?? chosen ?? 0);
    else if (event.key === "Escape") setStood(undefined);
    else return;
    event.preventDefault();
  }

  if (broken) return <Empty title="No WebGL">This browser can't draw the points; it has no WebGL, or it is turned off.</Empty>;
  const pointed = hovered ?? stood;
  return (
    <div class="scatter">
      <div
        class="scatter-frame"
        ref={frame}
        tabIndex={0}
        role="application"
        aria-label={`${places.length} pictures as points. Arrow keys go from point to point, with Shift they move the plane; plus and minus zoom, 0 shows all, Enter asks for the neighbours.`}
        onKeyDown={key}
        onPointerDown={(event) => {
          pressed.current = { x: event.clientX, y: event.clientY };
        }}
        onPointerMove={(event) => event.pointerType === "mouse" && setHovered(event.buttons ? undefined : at(event))}
        onPointerLeave={() => setHovered(undefined)}
        onClick={(event) => {
          if (Math.hypot(event.clientX - pressed.current.x, event.clientY - pressed.current.y) > 5) return;
          const index = at(event);
          setStood(index);
          if (index !== undefined) onChoose(index);
        }}
      >
        <canvas ref={canvas} aria-hidden="true" />
        {chosen !== undefined && <Ring {...onScreen(chosen)} radius={dot + 4} />}
        {pointed !== undefined && pointed !== chosen && <Ring {...onScreen(pointed)} radius={dot + 3} />}
        {pointed !== undefined && (
          <Tip key={pointed} dataset={dataset} place={places[pointed]!} {...onScreen(pointed)} {...size} />
        )}
        <p class="hidden" aria-live="polite">
          {pointed === undefined ? "" : `${places[pointed]!.label} ${places[pointed]!.name}`}
        </p>
      </div>
      {labels.length > 1 && (
        <ul class="legend small" aria-label="Labels">
          {labels.slice(0, 40).map((label, index) => (
            <li key={label}>
              <button
                type="button"
                class="legend-label"
                aria-pressed={only === label}
                onClick={() => setOnly(only === label ? undefined : label)}
              >
                <span class="swatch" style={{ background: colorOf(index) }} aria-hidden="true" />
                {label || "no label"}
              </button>
            </li>
          ))}
        </ul>
      )}
    </div>
  );
}

function Ring({ x, y, radius }: { x: number; y: number; radius: number }) {
  return (
    <span
      class="ring"
      style={{ left: `${x - radius}px`, top: `${y - radius}px`, width: `${2 * radius}px`, height: `${2 * radius}px` }}
      aria-hidden="true"
    />
  );
}

interface TipProps {
  dataset: string;
  place: Place;
  x: number;
  y: number;
  width: number;
  height: number;
}

function Tip({ dataset, place, x, y, width, height }: TipProps) {
  const [right, below] = [x < width - 140, y < height - 150];
  return (
    <div
      class="tip small"
      style={{
        left: right ? `${x + 14}px` : "auto",
        right: right ? "auto" : `${width - x + 14}px`,
        top: below ? `${y + 10}px` : "auto",
        bottom: below ? "auto" : `${height - y + 10}px`,
      }}
      aria-hidden="true"
    >
      <Thumbnail dataset={dataset} item={place.item} alt="" />
      <span>{place.label}</span>
      <span class="muted">{place.name}</span>
    </div>
  );
}
