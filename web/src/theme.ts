// Light, dark, or as the system has it; the choice is kept by the browser.

import { recall, retain } from "./storage";
import { store } from "./store";

export type Theme = "system" | "light" | "dark";

const KEY = "endoscope-theme";

function kept(): Theme {
  const value = recall("localStorage", KEY);
  return value === "light" || value === "dark" ? value : "system";
}

function apply(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset["theme"];
  else document.documentElement.dataset["theme"] = theme;
}

export const theme = store<Theme>(kept());
apply(theme.get());

export function isDark(): boolean {
  const chosen = theme.get();
  return chosen === "system" ? matchMedia("(prefers-color-scheme: dark)").matches : chosen === "dark";
}

export function choose(next: Theme): void {
  apply(next);
  theme.set(next);
  retain("localStorage", KEY, next === "system" ? "" : next);
}
