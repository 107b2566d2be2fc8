import type { ClassScore } from "../generated/endoscope/v1/image_pb";
import { percent, short } from "../words";

interface Props {
  title: string;
  scores: readonly ClassScore[];
  /** The class that the bar stands out for. */
  marked?: number | undefined;
}

/** How sure a model is, class by class. */
export function Bars({ title, scores, marked }: Props) {
  return (
    <section class="bars" aria-label={title}>
      <h3>{title}</h3>
      <ol>
        {scores.map((score) => (
          <li key={score.classIndex} class={score.classIndex === marked ? "marked" : ""}>
            <span class="bar-name">{score.label ? short(score.label) : `class ${score.classIndex}`}</span>
            <span class="bar-value numbers">{percent(score.probability)}</span>
            <span class="bar" aria-hidden="true">
              <span style={{ width: `${100 * score.probability}%` }} />
            </span>
          </li>
        ))}
      </ol>
    </section>
  );
}
