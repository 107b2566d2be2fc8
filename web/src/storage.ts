// What the browser keeps for the page: in one tab until it is closed, or for good. A browser that keeps nothing is as one
// where nothing was kept yet.

export type Place = "sessionStorage" | "localStorage";

/** What is kept under a key; empty if nothing is. */
export function recall(place: Place, key: string): string {
  try {
    return globalThis[place].getItem(key) ?? "";
  } catch {
    return "";
  }
}

/** Keeps a text; an empty one is none. */
export function retain(place: Place, key: string, text: string): void {
  try {
    if (text) globalThis[place].setItem(key, text);
    else globalThis[place].removeItem(key);
  } catch {
    // It lasts until the page is loaded again, where the page remembers it, too.
  }
}
