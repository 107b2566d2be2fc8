// Values along an axis of numbers: a curve with as many points as there are.

import { precise } from "../words";

interface Props {
  title: string;
  values: readonly number[];
  /** Where each value stands; empty for 1, 2, 3 and so on. */
  positions: readonly number[];
}

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [320, 170, 46, 12, 10, 24];

export function Plot({ title, values, positions }: Props) {
  const points = values
    .map((value, index) => [positions[index] ?? index + 1, value] as const)
    .filter(([at, value]) => Number.isFinite(at) && Number.isFinite(value));
  if (!points.length) return null;
  const across = axis(points.map(([at]) => at));
  const up = axis(points.map(([, value]) => value));
  const x = (at: number) => LEFT + across.share(at) * (WIDTH - LEFT - RIGHT);
  const y = (value: number) => HEIGHT - BOTTOM - up.share(value) * (HEIGHT - TOP - BOTTOM);
  const [first, last] = [points[0]!, points.at(-1)!];
  // No more points than pixels.
  const every = Math.ceil(points.length / WIDTH);
  const drawn = points.filter((_, index) => index % every === 0 || index === points.length - 1);
  return (
    <figure class="plot">
      <figcaption class="small">
        <span class="plot-name">{title}</span> <span class="numbers muted">{precise(last[1])}</span>
      </figcaption>
      <svg
        viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
        role="img"
        aria-label={`${title}: ${precise(first[1])} at ${number(first[0])}, ${precise(last[1])} at ${number(last[0])}`}
      >
        {up.ticks.map((tick) => (
          <g key={tick}>
            <line class="rule" x1={LEFT} x2={WIDTH - RIGHT} y1={y(tick)} y2={y(tick)} />
            <text x={LEFT - 8} y={y(tick) + 4} text-anchor="end">
              {number(tick)}
            </text>
          </g>
        ))}
        {across.ticks.map((tick) => (
          <text key={tick} x={x(tick)} y={HEIGHT - 6} text-anchor="middle">
            {number(tick)}
          </text>
        ))}
        <polyline points={drawn.map(([at, value]) => `${x(at).toFixed(1)},${y(value).toFixed(1)}`).join(" ")} />
        <circle cx={x(last[0])} cy={y(last[1])} r="3" />
      </svg>
    </figure>
  );
}

function number(value: number): string {
  const size = Math.abs(value);
  return size !== 0 && (size < 1e-3 || size >= 1e5) ? value.toExponential(0) : String(Number(value.toPrecision(6)));
}

/** The range of an axis, with three to six round ticks in it. */
function axis(values: readonly number[]) {
  // Not by spread: there may be more values than a call takes arguments.
  const low = values.reduce((least, value) => Math.min(least, value), Number.POSITIVE_INFINITY);
  const high = values.reduce((most, value) => Math.max(most, value), Number.NEGATIVE_INFINITY);
  const extent = high - low || Math.abs(high) || 1;
  const power = 10 ** Math.floor(Math.log10(extent / 3));
  const step = power * ([5, 2, 1].find((factor) => extent / (factor * power) >= 3) ?? 1);
  const from = high === low ? low - extent / 2 : low;
  const ticks = [];
  for (let index = Math.ceil(from / step - 1e-9); index * step <= from + extent * (1 + 1e-9); index++) ticks.push(index * step);
  return { ticks, share: (value: number) => (value - from) / extent };
}
