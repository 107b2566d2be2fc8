// The token that a server may ask for. It is kept for as long as the tab is open, and sent to this server only.

import { recall, retain } from "../storage";
import { store } from "../store";

const KEY = "endoscope-token";

const token = store(recall("sessionStorage", KEY));

/** What the server said of the last token, or of none; empty while it asks for nothing. */
export const refused = store("");

export function authorization(): string | undefined {
  return token.get() ? `Bearer ${token.get()}` : undefined;
}

export function setToken(next: string): void {
  token.set(next.trim());
  retain("sessionStorage", KEY, token.get());
  refused.set("");
}
