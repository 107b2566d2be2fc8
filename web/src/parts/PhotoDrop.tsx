import { useEffect, useState } from "preact/hooks";

import { photo, takePhoto } from "./photo";

/** Where a photo is dropped, pasted or chosen. */
export function PhotoDrop() {
  const taken = photo.use();
  const [over, setOver] = useState(false);
  const [trouble, setTrouble] = useState("");

  async function take(file: File | null | undefined) {
    if (!file) return;
    setTrouble("");
    await takePhoto(file, file.name || "pasted picture").catch((error: Error) => setTrouble(error.message));
  }

  useEffect(() => {
    const paste = (event: ClipboardEvent) => void take(event.clipboardData?.files[0]);
    addEventListener("paste", paste);
    return () => removeEventListener("paste", paste);
  }, []);

  return (
    <div class="field">
      <span class="label" id="photo-label">
        Photo
      </span>
      <label
        class={`drop ${over ? "over" : ""} ${taken ? "filled" : ""}`}
        onDragOver={(event) => {
          event.preventDefault();
          setOver(true);
        }}
        onDragLeave={() => setOver(false)}
        onDrop={(event) => {
          event.preventDefault();
          setOver(false);
          void take(event.dataTransfer?.files[0]);
        }}
      >
        <input
          class="hidden"
          type="file"
          accept="image/*"
          aria-labelledby="photo-label"
          onChange={(event) => {
            void take(event.currentTarget.files?.[0]);
            event.currentTarget.value = "";
          }}
        />
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
          <span>
            Drop, paste or <span class="as-link">choose</span> a photo
          </span>
        )}
      </label>
      {trouble && (
        <p class="small trouble" role="alert">
          {trouble}
        </p>
      )}
    </div>
  );
}
