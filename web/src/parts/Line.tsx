// A small line over the steps: how a loss went.

import { precise } from "../words";

interface Props {
  name: string;
  values: readonly number[];
}

const WIDTH = 240;
const HEIGHT = 44;

export function Line({ name, values }: Props) {
  const shown = values.filter(Number.isFinite);
  if (shown.length < 2) return null;
  const low = Math.min(...shown);
  const high = Math.max(...shown);
  const last = shown.at(-1)!;
  const x = (index: number) => (index / (shown.length - 1)) * (WIDTH - 6) + 1;
  const y = (value: number) => HEIGHT - 4 - ((value - low) / (high - low || 1)) * (HEIGHT - 8);
  // No more points than pixels.
  const every = Math.ceil(shown.length / WIDTH);
  const points = shown
    .map((value, index) => [index, value] as const)
    .filter(([index]) => index % every === 0 || index === shown.length - 1)
    .map(([index, value]) => `${x(index).toFixed(1)},${y(value).toFixed(1)}`);
  return (
    <figure class="line">
      <figcaption class="small muted">
        {name.replaceAll("_", " ")} <span class="numbers">{precise(last)}</span>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`${name} from ${precise(shown[0]!)} to ${precise(last)}`}>
        <polyline points={points.join(" ")} />
        <circle cx={x(shown.length - 1)} cy={y(last)} r="2.5" />
      </svg>
    </figure>
  );
}
