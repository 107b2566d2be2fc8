// A class's probability as a picture's pixels are taken away, and as they are put back.

import { plural } from "../words";

interface Props {
  title: string;
  series: readonly { name: string; values: readonly number[]; area: number; hint: string }[];
}

const [WIDTH, HEIGHT, LEFT, TOP, BOTTOM] = [320, 190, 42, 8, 34];

export function Falling({ title, series }: Props) {
  const x = (index: number, count: number) => LEFT + (index / Math.max(1, count - 1)) * (WIDTH - LEFT - 8);
  const y = (value: number) => TOP + (1 - value) * (HEIGHT - TOP - BOTTOM);
  const told = series.map(({ name, area }) => `area under ${name} ${area.toFixed(3)}`).join(", ");
  return (
    <figure class="falling">
      <figcaption>
        <h3>{title}</h3>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`${title}, ${plural(series.length, "curve")}: ${told}`}>
        {[0, 0.5, 1].map((tick) => (
          <g key={tick}>
            <line class="rule" x1={LEFT} x2={WIDTH - 8} y1={y(tick)} y2={y(tick)} />
            <text x={LEFT - 8} y={y(tick) + 4} text-anchor="end">
              {tick * 100}%
            </text>
            <text x={LEFT + tick * (WIDTH - LEFT - 8)} y={HEIGHT - BOTTOM + 18} text-anchor={tick === 0 ? "start" : tick === 1 ? "end" : "middle"}>
              {tick === 0 ? "none" : tick === 1 ? "all pixels" : "half"}
            </text>
          </g>
        ))}
        {series.map(({ name, values }) => (
          <polyline key={name} class={name} points={values.map((value, index) => `${x(index, values.length)},${y(value)}`).join(" ")} />
        ))}
      </svg>
      <dl class="falling-words small">
        {series.map(({ name, area, hint }) => (
          <div key={name}>
            <dt class={name}>{name}</dt>
            <dd class="numbers">
              {area.toFixed(3)} <span class="muted">{hint}</span>
            </dd>
          </div>
        ))}
      </dl>
    </figure>
  );
}
