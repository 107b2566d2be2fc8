import type { ComponentChildren } from "preact";
import { useEffect, useRef } from "preact/hooks";

import { link, type Room, type Route } from "../router";
import { choose, theme, type Theme } from "../theme";

const ROOMS: readonly (readonly [Room, string])[] = [
  ["model", "Layers"],
  ["class", "Class"],
  ["dream", "Dream"],
  ["adversarial", "Adversarial"],
  ["fooling", "Fooling"],
  ["inversion", "Inversion"],
  ["attribution", "Attribution"],
  ["technique", "Techniques"],
  ["embedding", "Embedding"],
  ["neighbors", "Neighbours"],
  ["audit", "Audit"],
];

export function Shell({ route, children }: { route: Route; children: ComponentChildren }) {
  const main = useRef<HTMLElement>(null);
  return (
    <>
      <a
        class="skip"
        href="#main"
        onClick={(event) => {
          // The address's hash is the room; it must stay.
          event.preventDefault();
          main.current?.focus();
        }}
      >
        Skip to the content
      </a>
      <header class="top">
        <div class="top-row">
          <a class="brand" href="#/">
            <Mark />
            Endoscope
          </a>
          <nav class="places" aria-label="Places">
            <a href="#/" aria-current={route.room === "models" ? "page" : undefined}>
              Models
            </a>
            <a href="#/datasets" aria-current={route.room === "datasets" ? "page" : undefined}>
              Datasets
            </a>
          </nav>
          <ThemeSwitch />
        </div>
        {route.model && <Rooms route={route} />}
      </header>
      <main id="main" ref={main} tabIndex={-1}>
        {children}
      </main>
    </>
  );
}

function Rooms({ route }: { route: Route }) {
  const nav = useRef<HTMLElement>(null);
  useEffect(() => {
    const here = nav.current?.querySelector("[aria-current]");
    here?.scrollIntoView({ block: "nearest", inline: "center" });
  }, [route.room]);
  const room = route.room === "layer" ? "model" : route.room;
  return (
    <nav class="rooms" aria-label={`Rooms of ${route.model}`} ref={nav}>
      <span class="rooms-model mono small" title={route.model}>
        {route.model}
      </span>
      {ROOMS.map(([name, words]) => (
        <a key={name} href={link(route.model, name)} aria-current={name === room ? "page" : undefined}>
          {words}
        </a>
      ))}
    </nav>
  );
}

function Mark() {
  return (
    <svg class="mark" viewBox="0 0 32 32" width="20" height="20" aria-hidden="true">
      <circle cx="16" cy="16" r="13" fill="none" stroke="currentColor" stroke-width="2.5" />
      <circle cx="16" cy="16" r="7.5" fill="none" stroke="currentColor" stroke-width="1.5" opacity="0.5" />
      <circle cx="16" cy="16" r="3" fill="currentColor" />
    </svg>
  );
}

const NEXT: Record<Theme, Theme> = { system: "light", light: "dark", dark: "system" };
const WORDS: Record<Theme, string> = { system: "as the system", light: "light", dark: "dark" };

function ThemeSwitch() {
  const now = theme.use();
  return (
    <button
      type="button"
      class="theme"
      title={`Colours: ${WORDS[now]}`}
      aria-label={`Colours: ${WORDS[now]}. Change to ${WORDS[NEXT[now]]}.`}
      onClick={() => choose(NEXT[now])}
    >
      <svg viewBox="0 0 24 24" width="18" height="18" aria-hidden="true">
        <circle cx="12" cy="12" r="8" fill="none" stroke="currentColor" stroke-width="1.5" />
        {now === "system" && <path d="M12 4a8 8 0 0 1 0 16z" fill="currentColor" />}
        {now === "dark" && <circle cx="12" cy="12" r="5.5" fill="currentColor" />}
      </svg>
    </button>
  );
}
