import type { ComponentChildren } from "preact";
import { useEffect, useId, useRef, useState } from "preact/hooks";

import { Drop } from "./Drop";
import { type Photo, photo, readPhoto, setPhoto } from "./photo";

interface Props {
  label?: string;
  hint?: string;
}

/** Where the photo of all rooms is dropped, pasted or chosen. */
export function PhotoDrop({ label = "Photo", hint }: Props) {
  const taken = photo.use();
  const [trouble, take] = useReading((found) => setPhoto(found[0]!));

  useEffect(() => {
    const paste = (event: ClipboardEvent) => void take(event.clipboardData?.files, 1);
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, []);

  return (
    <PhotoBox
      label={label}
      hint={hint}
      trouble={trouble}
      taken={taken}
      words={
        <>
          Drop, paste or <span class="as-link">choose</span> a photo
        </>
      }
      onTake={(files) => void take(files, 1)}
    />
  );
}

interface PhotosProps {
  label: string;
  hint?: string;
  /** Whether there may be several. */
  many: boolean;
  photos: readonly Photo[];
  onChange: (photos: readonly Photo[]) => void;
}

/** Where photos of one room are dropped or chosen, and taken away again. */
export function PhotosDrop({ label, hint, many, photos, onChange }: PhotosProps) {
  const [trouble, take] = useReading((found) => onChange(many ? [...photos, ...found] : found));
  const shown = useRef(photos);
  useEffect(() => {
    for (const gone of shown.current) if (!photos.includes(gone)) URL.revokeObjectURL(gone.url);
    shown.current = photos;
  }, [photos]);
  useEffect(() => () => shown.current.forEach(({ url }) => URL.revokeObjectURL(url)), []);
  return (
    <PhotoBox
      label={label}
      hint={hint}
      trouble={trouble}
      many={many}
      words={
        <>
          Drop or <span class="as-link">choose</span> {many ? "photos" : photos.length ? "another photo" : "a photo"}
        </>
      }
      onTake={(files) => void take(files, many ? files.length : 1)}
    >
      {photos.length > 0 && (
        <ul class="taken" aria-label={`${label}: taken`}>
          {photos.map((one) => (
            <li key={one.url}>
              <img src={one.url} alt={one.name} />
              <button
                type="button"
                class="remove"
                aria-label={`Remove ${one.name}`}
                onClick={() => onChange(photos.filter((other) => other !== one))}
              >
                ×
              </button>
            </li>
          ))}
        </ul>
      )}
    </PhotoBox>
  );
}

/** Files as photos; what can't be read is told, and nothing is taken then. */
function useReading(use: (photos: Photo[]) => void) {
  const [trouble, setTrouble] = useState("");
  async function take(files: FileList | null | undefined, most: number) {
    const wanted = [...(files ?? [])].slice(0, most);
    if (!wanted.length) return;
    setTrouble("");
    await Promise.all(wanted.map((file) => readPhoto(file, file.name || "pasted picture"))).then(use, (error: Error) =>
      setTrouble(error.message),
    );
  }
  return [trouble, take] as const;
}

interface BoxProps {
  label: string;
  hint?: string | undefined;
  trouble: string;
  many?: boolean;
  /** What the box is filled with; else it shows words. */
  taken?: Photo | undefined;
  words: ComponentChildren;
  onTake: (files: FileList) => void;
  children?: ComponentChildren;
}

function PhotoBox({ label, hint, trouble, many = false, taken, words, onTake, children }: BoxProps) {
  const id = useId();
  return (
    <div class="field">
      <span class="label" id={id}>
        {label}
      </span>
      <Drop
        class={taken ? "filled" : ""}
        accept="image/*"
        multiple={many}
        name={{ "aria-labelledby": id }}
        onDrop={(transfer) => onTake(transfer.files)}
        onPick={onTake}
      >
        {taken ? (
          <>
            <img src={taken.url} alt={`The photo ${taken.name}`} />
            <span class="small muted">
              {taken.name}, {taken.width} × {taken.height}
              <br />
              <span class="as-link">another one</span>
            </span>
          </>
        ) : (
          <span>{words}</span>
        )}
      </Drop>
      {children}
      {trouble && (
        <p class="small trouble" role="alert">
          {trouble}
        </p>
      )}
      {hint && <p class="small muted">{hint}</p>}
    </div>
  );
}
