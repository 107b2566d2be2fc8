import type { ComponentChildren } from "preact";
import { useId, useLayoutEffect, useRef } from "preact/hooks";

interface SliderProps {
  label: string;
  value: number;
  min: number;
  max: number;
  step?: number;
  show?: (value: number) => string;
  hint?: string;
  onChange: (value: number) => void;
}

export function Slider({ label, value, min, max, step = 1, show = String, hint, onChange }: SliderProps) {
  const id = useId();
  return (
    <div class="field">
      <div class="field-head">
        <label class="label" for={id}>
          {label}
        </label>
        <output class="small numbers" for={id}>
          {show(value)}
        </output>
      </div>
      <input
        id={id}
        class="slider"
        type="range"
        min={min}
        max={max}
        step={step}
        value={value}
        aria-valuetext={show(value)}
        onInput={(event) => onChange(Number(event.currentTarget.value))}
      />
      {hint && <p class="small muted">{hint}</p>}
    </div>
  );
}

interface ChoiceProps<T extends string | number> {
  label: string;
  value: T;
  options: readonly (readonly [T, string])[];
  onChange: (value: T) => void;
  hint?: string | undefined;
}

/** A few options side by side. */
export function Segments<T extends string | number>({ label, value, options, onChange, hint }: ChoiceProps<T>) {
  const name = useId();
  return (
    <fieldset class="field">
      <legend>{label}</legend>
      <div class="segments">
        {options.map(([option, words]) => (
          <label key={option} class="segment">
            <input
              class="hidden"
              type="radio"
              name={name}
              checked={option === value}
              onChange={() => onChange(option)}
            />
            <span>{words}</span>
          </label>
        ))}
      </div>
      {hint && <p class="small muted">{hint}</p>}
    </fieldset>
  );
}

/** Many options below each other. */
export function Choice<T extends string | number>({ label, value, options, onChange, hint }: ChoiceProps<T>) {
  const id = useId();
  return (
    <div class="field">
      <label class="label" for={id}>
        {label}
      </label>
      <select
        id={id}
        class="input"
        value={String(value)}
        onChange={(event) => onChange(options[event.currentTarget.selectedIndex]![0])}
      >
        {options.map(([option, words]) => (
          <option key={option} value={String(option)}>
            {words}
          </option>
        ))}
      </select>
      {hint && <p class="small muted">{hint}</p>}
    </div>
  );
}

export function Check({ label, value, onChange }: { label: string; value: boolean; onChange: (value: boolean) => void }) {
  return (
    <label class="check">
      <input type="checkbox" checked={value} onChange={(event) => onChange(event.currentTarget.checked)} />
      <span>{label}</span>
    </label>
  );
}

export function NumberField(props: { label: string; value: number; min: number; max: number; onChange: (value: number) => void }) {
  const id = useId();
  return (
    <div class="field">
      <label class="label" for={id}>
        {props.label}
      </label>
      <input
        id={id}
        class="input numbers"
        type="number"
        min={props.min}
        max={props.max}
        value={props.value}
        onChange={(event) => {
          const value = Math.round(Number(event.currentTarget.value));
          props.onChange(Math.min(props.max, Math.max(props.min, Number.isFinite(value) ? value : props.min)));
        }}
      />
    </div>
  );
}

/** The seed of all randomness. */
export function Seed({ value, onChange }: { value: number; onChange: (value: number) => void }) {
  return <NumberField label="Seed" value={value} min={0} max={2 ** 31 - 1} onChange={onChange} />;
}

/** What is seldom changed. */
export function More({ children, open = false }: { children: ComponentChildren; open?: boolean }) {
  const details = useRef<HTMLDetailsElement>(null);
  // It is opened for what must be seen, and never closed: somebody may be typing there.
  useLayoutEffect(() => {
    if (open) details.current!.open = true;
  }, [open]);
  return (
    <details class="more" ref={details}>
      <summary class="small">More settings</summary>
      <div class="more-body">{children}</div>
    </details>
  );
}
