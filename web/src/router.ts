// Rooms by hash: `#/models/{model}/{room}/{further parts}`.

import { store } from "./store";

export type Room =
  | "models"
  | "datasets"
  | "model"
  | "layer"
  | "class"
  | "dream"
  | "adversarial"
  | "fooling"
  | "inversion"
  | "attribution"
  | "technique"
  | "embedding"
  | "neighbors"
  | "audit";

export interface Route {
  room: Room;
  model: string;
  rest: string[];
}

const OF_MODEL: readonly string[] = [
  "layer",
  "class",
  "dream",
  "adversarial",
  "fooling",
  "inversion",
  "attribution",
  "technique",
  "embedding",
  "neighbors",
  "audit",
];

export function parse(hash: string): Route {
  const [head = "", model = "", room = "", ...rest] = hash.replace(/^#?\/?/, "").split("/").map(decodeURIComponent);
  if (head === "datasets") return { room: "datasets", model: "", rest: [] };
  if (head !== "models" || !model) return { room: "models", model: "", rest: [] };
  return { room: OF_MODEL.includes(room) ? (room as Room) : "model", model, rest };
}

export function link(model: string, room: Room = "model", ...rest: (string | number)[]): string {
  const parts = room === "model" ? ["models", model] : ["models", model, room, ...rest];
  return `#/${parts.map((part) => encodeURIComponent(part)).join("/")}`;
}

export const route = store<Route>(parse(location.hash));

addEventListener("hashchange", () => {
  const before = route.get();
  const next = parse(location.hash);
  route.set(next);
  if (before.room !== next.room || before.model !== next.model || before.rest[0] !== next.rest[0]) scrollTo(0, 0);
});
