// The chapters of an audit, and what each found in a few words.

import type { JsonObject, JsonValue } from "@bufbuild/protobuf";

import { AuditChapter } from "../generated/endoscope/v1/audit_pb";
import { count, percent, plural, precise } from "../words";

interface Chapter {
  chapter: AuditChapter;
  /** As steps name it. */
  name: string;
  title: string;
  found: (values: JsonObject) => string;
}

const object = (value: JsonValue | undefined) => (value ?? {}) as JsonObject;
const list = (value: JsonValue | undefined) => (value ?? []) as JsonObject[];
const number = (value: JsonValue | undefined) => Number(value ?? Number.NaN);

export const CHAPTERS: readonly Chapter[] = [
  {
    chapter: AuditChapter.IDENTITY,
    name: "identity",
    title: "Identity",
    found: ({ model, dataset }) =>
      `${count(number(object(model)["parameters"]))} parameters, ${count(number(object(model)["layers"]))} layers; ` +
      `${object(dataset)["looked_at"]} of ${plural(number(object(dataset)["pictures"]), "picture")} looked at`,
  },
  {
    chapter: AuditChapter.PARITY,
    name: "parity",
    title: "Parity",
    found: ({ passed, compared, worst_relative }) =>
      `${passed ? "both engines agree" : "the engines do not agree"} on ${plural(number(compared), "value")}, ` +
      `${precise(number(worst_relative), 2)} apart at most`,
  },
  {
    chapter: AuditChapter.ACCURACY,
    name: "accuracy",
    title: "Accuracy and calibration",
    found: ({ top1, right, pictures, ece }) =>
      `${percent(number(top1))} right, ${right} of ${plural(number(pictures), "picture")}; calibration error ${precise(number(ece))}`,
  },
  {
    chapter: AuditChapter.ROBUSTNESS,
    name: "robustness",
    title: "Robustness",
    found: ({ clean_accuracy, linf, l2 }) =>
      [
        `${percent(number(clean_accuracy))} right without attack`,
        ...[linf, l2].flatMap((norm, index) => {
          const first = list(object(norm)["curve"])[0];
          return first ? [`${percent(number(first["robust_accuracy"]))} at ${first["name"]} in ${index ? "L2" : "L-infinity"}`] : [];
        }),
      ].join(", "),
  },
  {
    chapter: AuditChapter.FOOLING,
    name: "fooling",
    title: "Fooling",
    found: ({ classes, median_steps }) =>
      `sure of ${list(classes).filter(({ reached }) => reached).length} of ${plural(list(classes).length, "class", "classes")} ` +
      "in pictures that show nothing" +
      (typeof median_steps === "number" ? `, after ${median_steps} steps` : ""),
  },
  {
    chapter: AuditChapter.PRIVACY,
    name: "privacy",
    title: "Privacy",
    found: ({ layers }) =>
      [list(layers)[0], list(layers).at(-1)]
        .map((layer) => `${number(layer?.["psnr"]).toFixed(1)} dB from ${layer?.["layer"]}`)
        .join(", "),
  },
  {
    chapter: AuditChapter.FEATURES,
    name: "features",
    title: "Features",
    found: ({ dead_units }) =>
      dead_units ? `${percent(number(object(dead_units)["channel_share"]))} of the channels never fire` : "no rectifiers, so no dead units",
  },
  {
    chapter: AuditChapter.ERRORS,
    name: "errors",
    title: "Errors",
    found: ({ errors, pictures }) => `${errors} of ${plural(number(pictures), "picture")} taken for another class`,
  },
];
