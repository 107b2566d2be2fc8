// Where one looks at a drawing from: pan and zoom by mouse, fingers, wheel and keys.

import { useCallback, useEffect, useRef, useState } from "preact/hooks";
import type { RefObject } from "preact";

export interface View {
  x: number;
  y: number;
  scale: number;
}

interface Options {
  width: number;
  height: number;
  least?: number;
  most?: number;
  /** Where one looks at first, given the size of the frame. */
  first: (frame: DOMRect) => View;
}

export interface Viewing {
  view: View;
  zoom: (factor: number, x?: number, y?: number) => void;
  pan: (x: number, y: number) => void;
  centre: (x: number, y: number) => void;
  reset: () => void;
  fit: () => void;
}

export function useView(frame: RefObject<HTMLElement | null>, options: Options): Viewing {
  const { width, height, least = 0.05, most = 4, first } = options;
  const [view, setView] = useState<View>({ x: 0, y: 0, scale: 1 });
  /** Whether it was moved by hand; until then it follows the frame. */
  const moved = useRef(false);

  const zoom = useCallback(
    (factor: number, x?: number, y?: number) => {
      const box = frame.current?.getBoundingClientRect();
      if (!box) return;
      moved.current = true;
      const [fixedX, fixedY] = [x ?? box.width / 2, y ?? box.height / 2];
      setView((now) => {
        const scale = Math.min(most, Math.max(least, now.scale * factor));
        const ratio = scale / now.scale;
        return { scale, x: fixedX - (fixedX - now.x) * ratio, y: fixedY - (fixedY - now.y) * ratio };
      });
    },
    [least, most],
  );
  const pan = useCallback((x: number, y: number) => {
    moved.current = true;
    setView((now) => ({ ...now, x: now.x + x, y: now.y + y }));
  }, []);
  const centre = useCallback((x: number, y: number) => {
    const box = frame.current?.getBoundingClientRect();
    moved.current = true;
    if (box) setView((now) => ({ ...now, x: box.width / 2 - x * now.scale, y: box.height / 2 - y * now.scale }));
  }, []);
  const reset = useCallback(() => {
    const box = frame.current?.getBoundingClientRect();
    moved.current = false;
    if (box?.width) setView(first(box));
  }, [first]);
  const fit = useCallback(() => {
    const box = frame.current?.getBoundingClientRect();
    if (!box) return;
    moved.current = true;
    const scale = Math.min(most, Math.max(least, Math.min(box.width / width, box.height / height)));
    setView({ scale, x: (box.width - width * scale) / 2, y: (box.height - height * scale) / 2 });
  }, [width, height, least, most]);

  useEffect(() => {
    const watcher = new ResizeObserver(() => moved.current || reset());
    if (frame.current) watcher.observe(frame.current);
    return () => watcher.disconnect();
  }, [reset]);

  useEffect(() => {
    const element = frame.current;
    if (!element) return;
    const fingers = new Map<number, { x: number; y: number }>();

    const down = (event: PointerEvent) => {
      if (event.button !== 0) return;
      fingers.set(event.pointerId, { x: event.clientX, y: event.clientY });
    };
    const move = (event: PointerEvent) => {
      const before = fingers.get(event.pointerId);
      if (!before) return;
      const now = { x: event.clientX, y: event.clientY };
      if (fingers.size === 1) {
        pan(now.x - before.x, now.y - before.y);
      } else {
        const other = [...fingers].find(([id]) => id !== event.pointerId)![1];
        const box = element.getBoundingClientRect();
        const apart = (a: { x: number; y: number }) => Math.hypot(a.x - other.x, a.y - other.y);
        pan((now.x - before.x) / 2, (now.y - before.y) / 2);
        zoom(apart(now) / (apart(before) || 1), (now.x + other.x) / 2 - box.left, (now.y + other.y) / 2 - box.top);
      }
      fingers.set(event.pointerId, now);
    };
    const up = (event: PointerEvent) => void fingers.delete(event.pointerId);
    // The page must scroll on, unless the drawing was chosen.
    const wheel = (event: WheelEvent) => {
      if (!event.ctrlKey && !event.metaKey && !element.contains(document.activeElement)) return;
      event.preventDefault();
      const box = element.getBoundingClientRect();
      zoom(Math.exp(-event.deltaY * (event.ctrlKey ? 0.01 : 0.0016)), event.clientX - box.left, event.clientY - box.top);
    };
    element.addEventListener("pointerdown", down);
    addEventListener("pointermove", move);
    addEventListener("pointerup", up);
    addEventListener("pointercancel", up);
    element.addEventListener("wheel", wheel, { passive: false });
    return () => {
      element.removeEventListener("pointerdown", down);
      removeEventListener("pointermove", move);
      removeEventListener("pointerup", up);
      removeEventListener("pointercancel", up);
      element.removeEventListener("wheel", wheel);
    };
  }, [zoom, pan]);

  return { view, zoom, pan, centre, reset, fit };
}
