import type { Neighbor } from "../generated/endoscope/v1/activation_pb";
import { precise, short } from "../words";
import { Picture } from "./Picture";

interface Props {
  title: string;
  neighbors: readonly Neighbor[];
  onChoose?: (neighbor: Neighbor) => void;
}

/** Pictures that are alike, nearest first; each can be asked for its own. */
export function NeighborStrip({ title, neighbors, onChoose }: Props) {
  return (
    <section class="neighbors" aria-label={title}>
      <h3>{title}</h3>
      <ol>
        {neighbors.map((neighbor) => {
          const words = `${neighbor.label ? `${short(neighbor.label)}, ` : ""}${neighbor.itemName}`;
          return (
            <li key={String(neighbor.item)}>
              <button
                type="button"
                class="neighbor"
                title={words}
                aria-label={`${words}, distance ${precise(neighbor.distance)}. Ask for its neighbours.`}
                onClick={() => onChoose?.(neighbor)}
              >
                <Picture image={neighbor.thumbnail} alt="" />
                <span class="small neighbor-label">{short(neighbor.label) || neighbor.itemName}</span>
                <span class="small muted numbers">{precise(neighbor.distance)}</span>
              </button>
            </li>
          );
        })}
      </ol>
    </section>
  );
}
