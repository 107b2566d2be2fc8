// The token that a server may ask for. It is kept for as long as the tab is open, and sent to this server only.

import { store } from "../store";

const KEY = "endoscope-token";

function kept(): string {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

const token = store(kept());

/** What the server said of the last token, or of none; empty while it asks for nothing. */
export const refused = store("");

export function authorization(): string | undefined {
  return token.get() ? `Bearer ${token.get()}` : undefined;
}

export function setToken(next: string): void {
  token.set(next.trim());
  try {
    sessionStorage.setItem(KEY, token.get());
  } catch {
    // Without storage it lasts until the page is loaded again.
  }
  refused.set("");
}
