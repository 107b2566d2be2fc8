// A value over the depth of a network.

import { short } from "../words";

interface Props {
  title: string;
  unit: string;
  points: readonly { name: string; value: number }[];
}

const [WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM] = [640, 220, 44, 16, 16, 46];

export function Curve({ title, unit, points }: Props) {
  const finite = points.map((point) => point.value).filter(Number.isFinite);
  const high = Math.max(10, Math.ceil(Math.max(...finite, 0) / 10) * 10);
  const x = (index: number) => LEFT + (index / Math.max(1, points.length - 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value: number) => TOP + (1 - Math.min(1, Math.max(0, value / high))) * (HEIGHT - TOP - BOTTOM);
  const ticks = Array.from({ length: Math.floor(high / 10) + 1 }, (_, index) => index * 10).filter(
    (tick) => high <= 40 || tick % 20 === 0,
  );
  const told = points.map((point) => `${point.name} ${point.value.toFixed(1)} ${unit}`).join(", ");
  // Names stand where there is room for them.
  const every = Math.ceil(points.length / 6);
  return (
    <figure class="curve">
      <figcaption>
        <h3>
          {title} <span class="muted">(PSNR in {unit}, first layer to last)</span>
        </h3>
      </figcaption>
      <svg viewBox={`0 0 ${WIDTH} ${HEIGHT}`} role="img" aria-label={`${title}: ${told}`}>
        {ticks.map((tick) => (
          <g key={tick}>
            <line class="rule" x1={LEFT} x2={WIDTH - RIGHT} y1={y(tick)} y2={y(tick)} />
            <text x={LEFT - 8} y={y(tick) + 4} text-anchor="end">
              {tick}
            </text>
          </g>
        ))}
        <polyline points={points.map((point, index) => `${x(index)},${y(point.value)}`).join(" ")} />
        {points.map((point, index) => (
          <g key={point.name}>
            <circle cx={x(index)} cy={y(point.value)} r="4">
              <title>{`${point.name}: ${point.value.toFixed(1)} ${unit}`}</title>
            </circle>
            {index % every === 0 && (
              <text
                x={x(index)}
                y={HEIGHT - BOTTOM + 20 + (Math.floor(index / every) % 2) * 15}
                text-anchor={index === 0 ? "start" : index === points.length - 1 ? "end" : "middle"}
              >
                {short(point.name)}
              </text>
            )}
          </g>
        ))}
      </svg>
    </figure>
  );
}
