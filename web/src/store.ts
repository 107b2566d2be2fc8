// What several rooms share, and what outlives them.

import { useLayoutEffect, useState } from "preact/hooks";

export interface Store<T> {
  get: () => T;
  set: (value: T) => void;
  use: () => T;
}

export function store<T>(first: T): Store<T> {
  let value = first;
  const watchers = new Set<() => void>();
  return {
    get: () => value,
    set(next) {
      value = next;
      for (const watcher of [...watchers]) watcher();
    },
    use() {
      const [, redraw] = useState(0);
      // At once, not after the next frame: what is set until then would never be seen.
      useLayoutEffect(() => {
        const watcher = () => redraw((count) => count + 1);
        watchers.add(watcher);
        return () => void watchers.delete(watcher);
      }, []);
      return value;
    },
  };
}
