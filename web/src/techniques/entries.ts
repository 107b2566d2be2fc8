// What stands in a form, and the JSON that it means.

import type { Json, Parameter } from "./schema";

/** What is entered for a parameter: a tick, layers that were picked, or a text. */
export type Entry = boolean | readonly string[] | string;

export type Entries = Readonly<Record<string, Entry>>;

/** What stands in the form at first. */
export function firstEntries(parameters: readonly Parameter[]): Entries {
  return Object.fromEntries(parameters.map((parameter) => [parameter.name, firstEntry(parameter)]));
}

function firstEntry({ kind, standard, options, required }: Parameter): Entry {
  if (kind === "check") return standard === true;
  if (kind === "layers") return Array.isArray(standard) ? standard.map(String) : [];
  if (kind === "choice") return JSON.stringify(standard ?? (required ? options[0] : undefined)) ?? "";
  if (standard === undefined || standard === null) return "";
  if (kind === "texts" || kind === "numbers") return (standard as Json[]).join(", ");
  return kind === "json" ? JSON.stringify(standard) : String(standard);
}

/** The parameters that entries mean; what can't be read is told by the parameter's name. */
export function read(parameters: readonly Parameter[], entries: Entries) {
  const values: Record<string, Json> = {};
  const troubles: Record<string, string> = {};
  for (const parameter of parameters) {
    try {
      const value = valueOf(parameter, entries[parameter.name]!);
      if (value !== undefined) values[parameter.name] = value;
    } catch (error) {
      troubles[parameter.name] = (error as Error).message;
    }
  }
  return { values, troubles };
}

/** The value that an entry means; undefined leaves it to the server, which knows the default. */
function valueOf({ kind, standard }: Parameter, entry: Entry): Json | undefined {
  if (typeof entry === "boolean") return entry;
  if (typeof entry !== "string") return [...entry];
  const text = entry.trim();
  // An emptied list or text is empty; any other empty field stands for the default.
  const meant = kind === "text" && typeof standard === "string" ? "" : kind !== "json" && Array.isArray(standard) ? [] : undefined;
  if (text === "") return meant;
  switch (kind) {
    case "number":
      return number(text);
    case "numbers":
      return text.split(/[\s,;]+/).filter(Boolean).map(number);
    case "texts":
      return text.split(/[,\n]/).map((item) => item.trim()).filter(Boolean);
    case "choice":
      return JSON.parse(text) as Json;
    case "json":
      return json(text);
    default:
      return entry;
  }
}

function number(text: string): number {
  const value = Number(text);
  if (!Number.isFinite(value)) throw new Error(`“${text}” is no number.`);
  return value;
}

function json(text: string): Json {
  try {
    return JSON.parse(text) as Json;
  } catch {
    throw new Error("This is no JSON, such as [1, 2] or {\"name\": 1}.");
  }
}
