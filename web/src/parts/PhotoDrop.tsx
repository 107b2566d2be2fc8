import { useEffect, useState } from "preact/hooks";

import { Drop } from "./Drop";
import { photo, takePhoto } from "./photo";

/** Where a photo is dropped, pasted or chosen. */
export function PhotoDrop() {
  const taken = photo.use();
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
      <Drop
        class={taken ? "filled" : ""}
        accept="image/*"
        name={{ "aria-labelledby": "photo-label" }}
        onDrop={(transfer) => void take(transfer.files[0])}
        onPick={(files) => void take(files[0])}
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
          <span>
            Drop, paste or <span class="as-link">choose</span> a photo
          </span>
        )}
      </Drop>
      {trouble && (
        <p class="small trouble" role="alert">
          {trouble}
        </p>
      )}
    </div>
  );
}
