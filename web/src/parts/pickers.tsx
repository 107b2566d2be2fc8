import { useId, useState } from "preact/hooks";

import type { Dataset } from "../generated/endoscope/v1/dataset_pb";
import type { Layer, Model } from "../generated/endoscope/v1/model_pb";
import { idOf, labelOf, shapeOf } from "../models";
import { plural, short } from "../words";
import type { Loading } from "../models";

interface ClassProps {
  model: Model;
  value: number | undefined;
  onChange: (value: number | undefined) => void;
  label?: string;
  /** What an empty field means; without it a class must be chosen. */
  optional?: string;
}

/** A class by its label or its number. */
export function ClassPicker({ model, value, onChange, label = "Class", optional }: ClassProps) {
  const id = useId();
  const [text, setText] = useState(value === undefined ? "" : labelOf(model, value));
  const [wrong, setWrong] = useState(false);
  const count = model.classCount || model.labels.length;

  function take(typed: string) {
    setText(typed);
    const wanted = typed.trim().toLowerCase();
    const number = /^(?:class )?(\d+)$/.exec(wanted)?.[1];
    let found = number === undefined ? -1 : Number(number);
    if (found < 0) found = model.labels.findIndex((name) => name.toLowerCase() === wanted);
    if (found < 0) found = model.labels.findIndex((name) => short(name).toLowerCase() === wanted);
    const there = found >= 0 && (count === 0 || found < count);
    setWrong(!there && !(optional !== undefined && wanted === ""));
    if (there || (optional !== undefined && wanted === "")) onChange(there ? found : undefined);
  }

  return (
    <div class="field">
      <label class="label" for={id}>
        {label}
      </label>
      <input
        id={id}
        class="input"
        list={`${id}-list`}
        value={text}
        placeholder={optional ?? "a label or a number"}
        aria-invalid={wrong}
        aria-describedby={`${id}-hint`}
        autocomplete="off"
        spellcheck={false}
        onFocus={(event) => event.currentTarget.select()}
        onInput={(event) => take(event.currentTarget.value)}
      />
      <datalist id={`${id}-list`}>
        {model.labels.map((name, index) => (
          <option key={index} value={name} />
        ))}
      </datalist>
      <p id={`${id}-hint`} class={`small ${wrong ? "trouble" : "muted"}`}>
        {wrong ? `There is no class “${text}”.` : value === undefined ? (optional ?? "") : `class ${value} of ${count || "?"}`}
      </p>
    </div>
  );
}

export function describeLayer(model: Model, layer: Layer): string {
  const shape = shapeOf(model, layer.shape);
  return shape.length ? `${layer.alias}  ·  ${shape.join(" × ")}` : layer.alias;
}

interface LayerProps {
  model: Model;
  value: string;
  onChange: (alias: string) => void;
  /** What no choice means; without it one must be made. */
  standard?: string;
  /** Only layers with positions. */
  spatial?: boolean;
}

export function LayerPicker({ model, value, onChange, standard, spatial = false }: LayerProps) {
  const id = useId();
  return (
    <div class="field">
      <label class="label" for={id}>
        Layer
      </label>
      <select id={id} class="input" value={value} onChange={(event) => onChange(event.currentTarget.value)}>
        {standard !== undefined && <option value="">{standard}</option>}
        <LayerOptions model={model} spatial={spatial} />
      </select>
    </div>
  );
}

interface LayerOptionsProps {
  model: Model;
  spatial?: boolean;
  /** Those that are not offered. */
  without?: readonly string[];
}

export function LayerOptions({ model, spatial = false, without = [] }: LayerOptionsProps) {
  const layers = model.layers.filter((layer) => (!spatial || layer.shape.length === 4) && !without.includes(layer.alias));
  return (
    <>
      {layers.map((layer) => (
        <option key={layer.alias} value={layer.alias}>
          {describeLayer(model, layer)}
        </option>
      ))}
    </>
  );
}

interface DatasetProps {
  datasets: Loading<Dataset[]>;
  value: string;
  onChange: (id: string) => void;
  label?: string;
  /** What no choice means; without it one must be made. */
  standard?: string;
}

export function DatasetPicker({ datasets, value, onChange, label = "Pictures", standard }: DatasetProps) {
  const id = useId();
  const there = datasets.value ?? [];
  return (
    <div class="field">
      <label class="label" for={id}>
        {label}
      </label>
      {datasets.value && there.length === 0 ? (
        <p class="small">
          There is no dataset yet. <a href="#/datasets">Add one</a>: a few dozen pictures will do.
        </p>
      ) : (
        <select id={id} class="input" value={value} onChange={(event) => onChange(event.currentTarget.value)}>
          {standard !== undefined && <option value="">{standard}</option>}
          {there.map((dataset) => (
            <option key={dataset.name} value={idOf(dataset.name)}>
              {idOf(dataset.name)}  ·  {plural(Number(dataset.itemCount), "picture")}
            </option>
          ))}
        </select>
      )}
    </div>
  );
}
