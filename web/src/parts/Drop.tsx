import type { ComponentChildren } from "preact";
import { useState } from "preact/hooks";

interface DropProps {
  class?: string;
  accept: string;
  multiple?: boolean;
  disabled?: boolean;
  /** What the input is called, or the element that calls it so. */
  name: { "aria-label": string } | { "aria-labelledby": string };
  onDrop: (transfer: DataTransfer) => void;
  onPick: (files: FileList) => void;
  children: ComponentChildren;
}

/** Where files are dropped or chosen. */
export function Drop({ class: look = "", accept, multiple, disabled, name, onDrop, onPick, children }: DropProps) {
  const [over, setOver] = useState(false);
  return (
    <label
      class={`drop ${look} ${over ? "over" : ""}`}
      onDragOver={(event) => {
        event.preventDefault();
        setOver(true);
      }}
      onDragLeave={() => setOver(false)}
      onDrop={(event) => {
        event.preventDefault();
        setOver(false);
        if (event.dataTransfer) onDrop(event.dataTransfer);
      }}
    >
      <input
        class="hidden"
        type="file"
        accept={accept}
        multiple={multiple}
        disabled={disabled}
        {...name}
        onChange={(event) => {
          if (event.currentTarget.files) onPick(event.currentTarget.files);
          event.currentTarget.value = "";
        }}
      />
      {children}
    </label>
  );
}
