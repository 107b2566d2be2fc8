// Models as the rooms need them: fetched once, with shapes in numbers and layers by alias.

import { useEffect, useState } from "preact/hooks";

import { models } from "./api/clients";
import { type Failure, toFailure } from "./api/failure";
import type { Layer, Model } from "./generated/endoscope/v1/model_pb";
import { Layout } from "./generated/endoscope/v1/image_pb";
import { evaluate } from "./shapes";

const fetched = new Map<string, Promise<Model>>();

export function idOf(name: string): string {
  return name.slice(name.indexOf("/") + 1);
}

export function getModel(id: string): Promise<Model> {
  let promise = fetched.get(id);
  if (!promise) {
    promise = models.getModel({ name: `models/${id}` }).then((response) => response.model!);
    promise.catch(() => fetched.delete(id));
    fetched.set(id, promise);
  }
  return promise;
}

export function forgetModel(id: string): void {
  fetched.delete(id);
}

export interface Loading<T> {
  value?: T;
  failure?: Failure;
}

/** What a promise gives, once it does; asked for again when a dependency changes. */
export function useFetched<T>(ask: () => Promise<T>, dependencies: readonly unknown[]): Loading<T> {
  const [state, setState] = useState<Loading<T>>({});
  useEffect(() => {
    let current = true;
    setState({});
    ask().then(
      (value) => current && setState({ value }),
      (error: unknown) => current && setState({ failure: toFailure(error) }),
    );
    return () => {
      current = false;
    };
  }, dependencies);
  return state;
}

export function useModel(id: string, version = 0): Loading<Model> {
  return useFetched(() => getModel(id), [id, version]);
}

/** The sizes that a picture gives to the free extents of the model's input. */
export function extents(model: Model): Map<string, number> {
  const input = model.inputs.find((value) => value.name === model.imageInput);
  const { height, width, layout } = model.preprocessing ?? {};
  const known = new Map<string, number>();
  if (input?.shape.length !== 4 || !height || !width) return known;
  const [rows, columns] = layout === Layout.NHWC ? [1, 2] : [2, 3];
  known.set(input.shape[rows]!, height).set(input.shape[columns]!, width);
  return known;
}

/** A layer's extents without the batch, free ones by what a picture of the model's own size gives. */
export function shapeOf(model: Model, shape: readonly string[]): string[] {
  const known = extents(model);
  return shape.slice(1).map((extent) => evaluate(extent, known));
}

export function layerOf(model: Model, alias: string): Layer | undefined {
  return model.layers.find((layer) => layer.alias === alias || layer.output === alias);
}

/** Channels of a layer's output; 0 if that is not known. */
export function channelsOf(model: Model, layer: Layer): number {
  const shape = shapeOf(model, layer.shape);
  const last = shape.length >= 3 && model.preprocessing?.layout === Layout.NHWC;
  return Number(last ? shape.at(-1) : shape[0]) || 0;
}

export function labelOf(model: Model, index: number): string {
  return model.labels[index] || `class ${index}`;
}
