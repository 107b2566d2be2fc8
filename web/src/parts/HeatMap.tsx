import type { Image } from "../generated/endoscope/v1/image_pb";
import { Picture } from "./Picture";

interface Props {
  photo: Image | undefined;
  /** The same photo under a heat map. */
  heat: Image | undefined;
  /** How much of the heat map is shown, in [0, 1]. */
  share: number;
  alt: string;
}

/** A photo with a heat map over it, as clear as one wants it. */
export function HeatMap({ photo, heat, share, alt }: Props) {
  const crisp = (photo?.width ?? 0) < 96;
  return (
    <span class="heat">
      <Picture image={photo} alt="" crisp={crisp} />
      <span style={{ opacity: share }}>
        <Picture image={heat} alt={alt} crisp={crisp} />
      </span>
    </span>
  );
}
