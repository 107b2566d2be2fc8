import { useEffect, useRef, useState } from "preact/hooks";

import { type Image, ImageFormat } from "../generated/endoscope/v1/image_pb";

const TYPES: Partial<Record<ImageFormat, string>> = {
  [ImageFormat.PNG]: "image/png",
  [ImageFormat.JPEG]: "image/jpeg",
  [ImageFormat.WEBP]: "image/webp",
};

export function blobOf(image: Image): Blob | undefined {
  if (image.source.case !== "encoded") return undefined;
  return new Blob([image.source.value as Uint8Array<ArrayBuffer>], { type: TYPES[image.format] ?? "" });
}

/** A URL of a picture, for as long as it is shown. */
export function usePictureUrl(image: Image | undefined): string | undefined {
  const [url, setUrl] = useState<string>();
  useEffect(() => {
    const blob = image && blobOf(image);
    if (!blob) return setUrl(undefined);
    const next = URL.createObjectURL(blob);
    setUrl(next);
    // The element that shows it may still be loading it.
    return () => void setTimeout(() => URL.revokeObjectURL(next), 1000);
  }, [image]);
  return url;
}

interface Props {
  image: Image | undefined;
  alt: string;
  class?: string;
  /** Show single pixels as squares. */
  crisp?: boolean;
}

export function Picture({ image, alt, crisp, class: name }: Props) {
  const url = usePictureUrl(image);
  if (!image || !url) return <span class={`picture blank ${name ?? ""}`} role="img" aria-label={alt} />;
  return (
    <img
      class={`picture ${crisp ? "crisp" : ""} ${name ?? ""}`}
      src={url}
      alt={alt}
      width={image.width || undefined}
      height={image.height || undefined}
      decoding="sync"
    />
  );
}

interface DownloadProps {
  image: Image | undefined;
  name: string;
  /** Beside several pictures: a smaller link, which says in words which of them it saves. */
  among?: string;
}

export function Download({ image, name, among }: DownloadProps) {
  const url = usePictureUrl(image);
  const format = image?.format === ImageFormat.JPEG ? "jpg" : image?.format === ImageFormat.WEBP ? "webp" : "png";
  if (!url) return null;
  const file = `${name}.${format}`;
  return among ? (
    <a class="small" href={url} download={file} aria-label={`Save ${among}`}>
      Save
    </a>
  ) : (
    <a class="button quiet" href={url} download={file}>
      Save the picture
    </a>
  );
}

/** Before and after, with a line between them that mouse, finger and arrow keys move. */
export function Compare({ before, after, alt }: { before: string; after: Image; alt: string }) {
  const [at, setAt] = useState(50);
  const url = usePictureUrl(after);
  const frame = useRef<HTMLDivElement>(null);
  return (
    <figure class="compare">
      <div class="compare-frame" ref={frame}>
        <img class="picture" src={url} alt={`${alt}, after`} width={after.width} height={after.height} decoding="sync" />
        <img class="picture compare-before" src={before} alt={`${alt}, before`} style={{ clipPath: `inset(0 ${100 - at}% 0 0)` }} />
        <span class="compare-line" style={{ left: `${at}%` }} aria-hidden="true" />
        <input
          type="range"
          min="0"
          max="100"
          value={at}
          aria-label="How much of the picture before is shown, in percent"
          onInput={(event) => setAt(Number(event.currentTarget.value))}
        />
      </div>
      <figcaption class="compare-caption small muted" aria-hidden="true">
        <span>before</span>
        <span>after</span>
      </figcaption>
    </figure>
  );
}
