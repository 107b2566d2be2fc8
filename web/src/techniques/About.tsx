import type { Technique } from "../generated/endoscope/v1/technique_pb";
import { Markdown } from "../parts/Markdown";

/** How a technique works and how to read what it gives, in its own words: open until there is something to see. */
export function About({ technique: { doc }, open }: { technique: Technique; open: boolean }) {
  if (!doc) return null;
  return open ? (
    <section class="about" aria-labelledby="about-title">
      <h3 id="about-title">How it works</h3>
      <Markdown text={doc} />
    </section>
  ) : (
    <details class="about more">
      <summary class="small">How it works</summary>
      <Markdown text={doc} />
    </details>
  );
}
