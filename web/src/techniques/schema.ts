// What a technique takes, as a form shows it: read from its JSON Schema, of which pydantic uses this much.

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };

interface Schema {
  type?: string;
  format?: string;
  title?: string;
  description?: string;
  default?: Json;
  examples?: Json[];
  enum?: Json[];
  const?: Json;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  maxItems?: number;
  items?: Schema;
  prefixItems?: Schema[];
  anyOf?: Schema[];
  allOf?: Schema[];
  $ref?: string;
}

interface Whole extends Schema {
  properties?: Record<string, Schema>;
  required?: string[];
  $defs?: Record<string, Schema>;
}

/** How a parameter is asked for. Lists and all that has no form of its own are asked for as text. */
export type Kind = "check" | "choice" | "number" | "text" | "layer" | "layers" | "texts" | "numbers" | "json";

export interface Parameter {
  name: string;
  label: string;
  description: string;
  kind: Kind;
  required: boolean;
  /** The default; undefined where there is none. */
  standard: Json | undefined;
  /** What it may be, in words; empty if anything. */
  range: string;
  /** What a choice is between. */
  options: readonly Json[];
  /** The first example, to show what is expected. */
  example: Json | undefined;
  /** How many items a list may have. */
  most: number;
}

/** The parameters that a JSON Schema tells, in its order. */
export function parametersOf(text: string): Parameter[] {
  const whole = JSON.parse(text) as Whole;
  return Object.entries(whole.properties ?? {}).map(([name, told]) => {
    const schema = resolve(told, whole);
    const options = optionsOf(schema);
    const label = sentence(name);
    return {
      name,
      // A title that only repeats the name is in another spelling.
      label: schema.title && schema.title.toLowerCase() !== label.toLowerCase() ? schema.title : label,
      description: schema.description ?? "",
      kind: kindOf(schema, options, whole),
      required: whole.required?.includes(name) ?? false,
      standard: schema.default,
      range: rangeOf(schema),
      options,
      example: schema.examples?.[0],
      most: schema.maxItems ?? Number.POSITIVE_INFINITY,
    };
  });
}

/** `cosine_power` as people write it. */
export function sentence(name: string): string {
  const words = name.replaceAll("_", " ");
  return words.charAt(0).toUpperCase() + words.slice(1);
}

/** The schema itself for one that points at another, or that also allows null. */
function resolve(schema: Schema, whole: Whole): Schema {
  if (schema.$ref) {
    const { $ref, ...own } = schema;
    return resolve({ ...whole.$defs?.[$ref.slice("#/$defs/".length)], ...own }, whole);
  }
  const some = (schema.anyOf ?? schema.allOf ?? []).filter((one) => one.type !== "null");
  if (some.length !== 1) return schema;
  const { anyOf, allOf, ...own } = schema;
  return resolve({ ...some[0], ...own }, whole);
}

function optionsOf(schema: Schema): Json[] {
  if (schema.enum) return schema.enum;
  if (schema.const !== undefined) return [schema.const];
  // A tick has two states; here is a third.
  return schema.type === "boolean" && schema.default === null ? [true, false] : [];
}

function kindOf(schema: Schema, options: readonly Json[], whole: Whole): Kind {
  if (options.length) return "choice";
  if (schema.type === "boolean") return "check";
  if (schema.type === "integer" || schema.type === "number") return "number";
  if (schema.type === "string") return schema.format === "layer" ? "layer" : "text";
  if (schema.type !== "array" || schema.prefixItems || !schema.items) return "json";
  const item = resolve(schema.items, whole);
  if (item.type === "string") return item.format === "layer" ? "layers" : "texts";
  return item.type === "integer" || item.type === "number" ? "numbers" : "json";
}

function rangeOf(schema: Schema): string {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = schema;
  const told = (value: number) => value.toLocaleString("en", { maximumSignificantDigits: 15 });
  if (minimum !== undefined && maximum !== undefined) return `${told(minimum)} to ${told(maximum)}`;
  const low = minimum !== undefined ? `at least ${told(minimum)}` : exclusiveMinimum !== undefined ? `above ${told(exclusiveMinimum)}` : "";
  const high = maximum !== undefined ? `at most ${told(maximum)}` : exclusiveMaximum !== undefined ? `below ${told(exclusiveMaximum)}` : "";
  return [low, high].filter(Boolean).join(", ");
}
