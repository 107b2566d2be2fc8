import type { ComponentChildren } from "preact";
import { useRef } from "preact/hooks";

interface Props {
  title: string;
  lead: ComponentChildren;
  controls: ComponentChildren;
  /** The words of the button that starts it. */
  act: string;
  ready: boolean;
  running: boolean;
  onStart: () => void;
  children: ComponentChildren;
}

/** A room of a technique: what is set on the left, what is seen on the right. */
export function Stage({ title, lead, controls, act, ready, running, onStart, children }: Props) {
  const seen = useRef<HTMLElement>(null);
  return (
    <div class="column wide">
      <header class="head">
        <h1>{title}</h1>
        <p class="lead muted">{lead}</p>
      </header>
      <div class="stage">
        <form
          class="controls"
          aria-label="Settings"
          onSubmit={(event) => {
            event.preventDefault();
            if (!ready || running) return;
            onStart();
            // On a phone the result is below the settings.
            if (matchMedia("(max-width: 52rem)").matches) seen.current?.scrollIntoView();
          }}
        >
          {controls}
          <button class="button act" type="submit" disabled={!ready || running}>
            {running ? "At work" : act}
          </button>
        </form>
        <section class="seen" aria-labelledby="result-title" ref={seen}>
          <h2 class="hidden" id="result-title">
            Result
          </h2>
          {children}
        </section>
      </div>
    </div>
  );
}
