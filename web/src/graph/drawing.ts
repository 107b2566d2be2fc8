// From a model's nodes to places on a plane.

import { Graph, layout } from "@dagrejs/dagre";

import type { Layer, Model } from "../generated/endoscope/v1/model_pb";
import { shapeOf } from "../models";

export interface Box {
  id: string;
  title: string;
  under: string;
  kind: string;
  /** The layer that it opens. */
  layer: string | undefined;
  x: number;
  y: number;
  width: number;
  height: number;
}

export interface Line {
  id: string;
  from: string;
  to: string;
  points: { x: number; y: number }[];
}

export interface Drawing {
  boxes: Box[];
  lines: Line[];
  width: number;
  height: number;
}

export const MOST_NODES = 3000;

const KINDS: readonly (readonly [RegExp, string])[] = [
  [/Conv/, "convolution"],
  [/Gemm|MatMul|Einsum/, "linear"],
  [/Pool|Reduce/, "pooling"],
  [/Relu|Clip|Sigmoid|Tanh|Elu|Gelu|Swish|Softmax|Erf|HardS|Mish|Softplus/i, "activation"],
  [/Norm/, "normalization"],
  [/Add|Mul|Sub|Div|Sum|Concat/, "joining"],
];

export const NAMES = ["convolution", "linear", "pooling", "activation", "normalization", "joining", "other"] as const;

function kindOf(operator: string): string {
  return KINDS.find(([pattern]) => pattern.test(operator))?.[1] ?? "other";
}

function shorten(text: string, most: number): string {
  return text.length <= most ? text : `…${text.slice(1 - most)}`;
}

/** The whole graph, node by node; weights are left out. */
export function draw(model: Model): Drawing {
  const graph = new Graph();
  graph.setGraph({ rankdir: "TB", nodesep: 18, ranksep: 26, marginx: 12, marginy: 12 });
  graph.setDefaultEdgeLabel(() => ({}));
  const layers = new Map<string, Layer>(model.layers.map((layer) => [layer.output, layer]));
  const boxes = new Map<string, Box>();
  const producers = new Map<string, string>();

  const place = (id: string, title: string, under: string, kind: string, layer?: string) => {
    const width = Math.max(112, 7.2 * Math.max(title.length, under.length * 0.88) + 22);
    const box = { id, title, under, kind, layer, x: 0, y: 0, width, height: 40 };
    boxes.set(id, box);
    graph.setNode(id, { width, height: box.height });
  };

  for (const input of model.inputs) {
    place(`in:${input.name}`, input.name, shapeOf(model, input.shape).join(" × "), "input");
    producers.set(input.name, `in:${input.name}`);
  }
  for (const node of model.nodes) {
    const layer = node.outputs.map((output) => layers.get(output)).find(Boolean);
    const shape = layer ? shapeOf(model, layer.shape).join(" × ") : "";
    const under = [node.opType, shape].filter(Boolean).join("  ");
    place(node.name, shorten(layer?.alias ?? node.name, 26), under, kindOf(node.opType), layer?.alias);
    for (const output of node.outputs) producers.set(output, node.name);
  }
  for (const node of model.nodes) {
    for (const input of new Set(node.inputs)) {
      const producer = producers.get(input);
      if (producer && producer !== node.name) graph.setEdge(producer, node.name);
    }
  }
  layout(graph);

  for (const [id, box] of boxes) {
    const { x, y } = graph.node(id) as { x: number; y: number };
    Object.assign(box, { x, y });
  }
  const lines = graph.edges().map(({ v, w }: { v: string; w: string }) => ({
    id: `${v}→${w}`,
    from: v,
    to: w,
    points: (graph.edge(v, w) as { points: { x: number; y: number }[] }).points,
  }));
  const { width = 0, height = 0 } = graph.graph() as { width?: number; height?: number };
  return { boxes: [...boxes.values()], lines, width, height };
}

/** A smooth path through the points of a line. */
export function path(points: readonly { x: number; y: number }[]): string {
  const [first, ...others] = points;
  if (!first) return "";
  let text = `M${first.x.toFixed(1)} ${first.y.toFixed(1)}`;
  others.forEach((point, index) => {
    const next = others[index + 1];
    if (!next) text += ` L${point.x.toFixed(1)} ${point.y.toFixed(1)}`;
    else text += ` Q${point.x.toFixed(1)} ${point.y.toFixed(1)} ${((point.x + next.x) / 2).toFixed(1)} ${((point.y + next.y) / 2).toFixed(1)}`;
  });
  return text;
}
