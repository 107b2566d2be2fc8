import { useId } from "preact/hooks";

import type { Model } from "../generated/endoscope/v1/model_pb";
import { LayerOptions } from "../parts/pickers";
import type { Entry } from "./entries";
import { type Parameter, sentence } from "./schema";

interface Props {
  model: Model;
  parameter: Parameter;
  entry: Entry;
  /** What is wrong with it; empty if nothing is known to be. */
  trouble: string;
  onChange: (entry: Entry) => void;
}

/** A parameter of any technique, asked for as its schema wants it. */
export function ParameterField(props: Props) {
  const { parameter, entry, trouble, onChange } = props;
  const id = useId();
  const { label, description, range, kind } = parameter;
  const told = {
    id,
    "aria-invalid": trouble !== "",
    "aria-describedby": `${trouble ? `${id}-trouble ` : ""}${id}-hint`,
  };
  return (
    <div class={kind === "number" ? "field inline" : "field"}>
      {kind === "check" ? (
        <label class="check">
          <input {...told} type="checkbox" checked={entry === true} onChange={(event) => onChange(event.currentTarget.checked)} />
          <span>{label}</span>
        </label>
      ) : (
        <>
          <label class="label" for={id}>
            {label}
          </label>
          <Control {...props} told={told} />
        </>
      )}
      {trouble && (
        <p class="small trouble" id={`${id}-trouble`} role="alert">
          {trouble}
        </p>
      )}
      <p class="small muted" id={`${id}-hint`}>
        {description} {range && <span class="numbers range">{sentence(range)}.</span>}
      </p>
    </div>
  );
}

interface ControlProps extends Props {
  told: { id: string; "aria-invalid": boolean; "aria-describedby": string };
}

function Control({ model, parameter, entry, onChange, told }: ControlProps) {
  const { kind, options, required, standard, example, most } = parameter;
  const text = String(entry);
  if (kind === "choice" || kind === "layer") {
    return (
      <select {...told} class="input" value={text} onChange={(event) => onChange(event.currentTarget.value)}>
        {!options.includes(standard ?? null) && <option value="">{required ? "choose one" : "as the technique chooses"}</option>}
        {kind === "layer" ? <LayerOptions model={model} /> : options.map((option) => <Option key={String(option)} value={option} />)}
      </select>
    );
  }
  if (kind === "layers") {
    const layers = entry as readonly string[];
    return (
      <>
        <select
          {...told}
          class="input"
          value=""
          disabled={layers.length >= most}
          onChange={({ currentTarget }) => {
            onChange([...layers, currentTarget.value]);
            currentTarget.value = "";
          }}
        >
          <option value="">{layers.length === 0 ? "as the technique chooses" : layers.length < most ? "one more" : `${most} at most`}</option>
          <LayerOptions model={model} without={layers} />
        </select>
        {layers.length > 0 && (
          <ul class="chips" aria-label={`${parameter.label}: chosen`}>
            {layers.map((layer) => (
              <li key={layer} class="small">
                {layer}
                <button
                  type="button"
                  class="remove"
                  aria-label={`Remove ${layer}`}
                  onClick={() => onChange(layers.filter((other) => other !== layer))}
                >
                  ×
                </button>
              </li>
            ))}
          </ul>
        )}
      </>
    );
  }
  const list = kind === "texts" || kind === "numbers";
  // An empty field of one of these is the default.
  const emptied = (kind === "number" || kind === "json") && standard !== null ? standard : undefined;
  const shown = emptied ?? example;
  const field = {
    ...told,
    class: `input ${kind === "number" || kind === "numbers" ? "numbers" : kind === "json" ? "mono" : ""}`,
    placeholder: shown === undefined ? (list ? "with commas between them" : "") : kind === "json" ? JSON.stringify(shown) : String(shown),
    value: text,
    autocomplete: "off",
    spellcheck: false,
    onInput: (event: { currentTarget: HTMLInputElement }) => onChange(event.currentTarget.value),
  } as const;
  // What a number may be the server knows best, and tells at the field.
  return kind === "number" ? <input {...field} type="number" step="any" /> : <input {...field} type="text" />;
}

function Option({ value }: { value: Parameter["options"][number] }) {
  const words = value === true ? "yes" : value === false ? "no" : String(value).replaceAll("_", " ");
  return <option value={JSON.stringify(value)}>{words}</option>;
}
