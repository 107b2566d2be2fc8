import { useEffect, useRef, useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { activations, gradients } from "../api/clients";
import { useJob } from "../api/job";
import { useDataset } from "../datasets";
import type { ActivatingPatches, ChannelPatches } from "../generated/endoscope/v1/activation_pb";
import type { FeatureVisualization } from "../generated/endoscope/v1/gradient_pb";
import type { Image } from "../generated/endoscope/v1/image_pb";
import type { Layer, Model } from "../generated/endoscope/v1/model_pb";
import { channelsOf, layerOf, shapeOf, useFetched } from "../models";
import { Banner, Empty } from "../parts/Banner";
import { Slider } from "../parts/fields";
import { DatasetPicker } from "../parts/pickers";
import { Picture } from "../parts/Picture";
import { Progress } from "../parts/Progress";
import { link } from "../router";
import { count, precise, short } from "../words";
import { sees } from "./ModelRoom";

const PAGE = 24;
const BATCH = 6;
const SIDE = 128;

/** What was painted and found already, for as long as the page is open: the same request gives the same picture. */
const painted = new Map<string, Image>();
const found = new Map<string, ChannelPatches>();

export function LayerRoom({ id, model, rest: [alias = "", chosen] }: RoomProps) {
  const layer = layerOf(model, alias);
  if (!layer) return <Banner failure={{ title: "Not found", words: `This model has no layer “${alias}”.` }} />;
  return <Channels key={layer.output} id={id} model={model} layer={layer} chosen={chosen} />;
}

interface Props {
  id: string;
  model: Model;
  layer: Layer;
}

function Head({ id, model, layer }: Props) {
  const at = model.layers.indexOf(layer);
  const [before, after] = [model.layers[at - 1], model.layers[at + 1]];
  const weights = layer.weightShape.length ? layer.weightShape.join(" × ") : "";
  const seen = sees(layer.receptiveField);
  return (
    <header class="head">
      <div class="section-head">
        <h1>{layer.alias}</h1>
        <nav class="beside-layers small" aria-label="Layers beside this one">
          {before && (
            <a href={link(id, "layer", before.alias)} title={before.alias}>
              ← before
            </a>
          )}
          {after && (
            <a href={link(id, "layer", after.alias)} title={after.alias}>
              after →
            </a>
          )}
        </nav>
      </div>
      <dl class="facts">
        {[
          ["Operator", layer.opType],
          ["Output", shapeOf(model, layer.shape).join(" × ")],
          ["Each unit sees", seen === "all" ? "the whole picture" : seen],
          ["Weights", weights],
          ["Parameters", layer.parameterCount ? count(layer.parameterCount) : ""],
        ]
          .filter(([, value]) => value)
          .map(([name, value]) => (
            <div key={name}>
              <dt>{name}</dt>
              <dd class="numbers">{value}</dd>
            </div>
          ))}
      </dl>
    </header>
  );
}

function Channels({ id, model, layer, chosen }: Props & { chosen: string | undefined }) {
  const total = channelsOf(model, layer);
  const [page, setPage] = useState(chosen === undefined ? 0 : Math.floor(Number(chosen) / PAGE) || 0);
  const [steps, setSteps] = useState(32);
  const [batch, setBatch] = useState<number[]>([]);
  const painter = useJob<FeatureVisualization>();
  const finder = useJob<ActivatingPatches>();
  const dataset = useDataset();
  const stopped = useRef(false);
  const shown = Array.from({ length: Math.min(PAGE, total - page * PAGE) }, (_, index) => page * PAGE + index);
  const side = Math.min(SIDE, model.preprocessing?.height || SIDE, model.preprocessing?.width || SIDE);
  const name = (channel: number) => `${model.fingerprint}/${layer.output}/${channel}/${steps}`;
  const patchName = (channel: number) => `${model.fingerprint}/${layer.output}/${channel}/${dataset.id}`;

  async function paint(channels: number[]) {
    stopped.current = false;
    const wanted = channels.filter((channel) => !painted.has(name(channel)));
    for (let at = 0; at < wanted.length && !stopped.current; at += BATCH) {
      const some = wanted.slice(at, at + BATCH);
      setBatch(some);
      const { result } = await painter.start((signal) =>
        gradients.visualizeFeature(
          {
            model: `models/${id}`,
            objectives: some.map((channel) => ({
              kind: { case: "channel", value: { layer: layer.output, channel } },
            })),
            steps,
            height: side,
            width: side,
            options: { previewEvery: 2 },
          },
          { signal },
        ),
      );
      if (!result) break;
      result.pictures.forEach((picture, index) => painted.set(name(some[index]!), picture.image!));
    }
    setBatch([]);
  }

  async function find(channels: number[]) {
    const { result } = await finder.start((signal) =>
      activations.findActivatingPatches(
        {
          model: `models/${id}`,
          dataset: `datasets/${dataset.id}`,
          selections: [{ layer: layer.output, channels }],
          k: 8,
          options: { previewEvery: 0 },
        },
        { signal },
      ),
    );
    for (const patches of result?.channels ?? []) found.set(patchName(patches.channel), patches);
    // Whoever drew the cells before must see what was found.
    setBatch([]);
  }

  const imageOf = (channel: number) =>
    painted.get(name(channel)) ?? (painter.state === "running" ? painter.previews[batch.indexOf(channel)] : undefined);
  const number = chosen === undefined ? undefined : Number(chosen);
  const busy = painter.state === "running";

  return (
    <div class="column wide">
      <Head id={id} model={model} layer={layer} />
      <Filters id={id} layer={layer} />
      {total === 0 ? (
        <Empty title="No channels to be shown">The extents of this layer's output are not known.</Empty>
      ) : (
        <section class="channels" aria-labelledby="channels-title">
          <div class="section-head">
            <h2 id="channels-title">
              {total.toLocaleString("en")} {layer.shape.length > 2 ? "channels" : "units"}
            </h2>
            <Pager page={page} pages={Math.ceil(total / PAGE)} onTurn={setPage} />
          </div>
          <div class="tools">
            <Slider label="Steps" value={steps} min={8} max={256} step={8} onChange={setSteps} />
            <button type="button" class="button" disabled={busy} onClick={() => void paint(shown)}>
              {busy ? "Painting" : "Paint these"}
            </button>
            <DatasetPicker datasets={dataset.list} value={dataset.id} onChange={dataset.choose} />
            <button
              type="button"
              class="button quiet"
              disabled={finder.state === "running" || !dataset.id}
              onClick={() => void find(shown)}
            >
              Find patches
            </button>
          </div>
          <Banner failure={painter.failure ?? finder.failure} />
          <Progress job={finder} onStop={finder.stop} />
          {busy && (
            <Progress
              job={painter}
              onStop={() => {
                stopped.current = true;
                painter.stop();
              }}
            />
          )}
          {number !== undefined && number < total && (
            <Chosen
              id={id}
              layer={layer}
              channel={number}
              image={imageOf(number)}
              patches={found.get(patchName(number))}
              busy={busy}
              onPaint={() => void paint([number])}
            />
          )}
          <ol class="grid">
            {shown.map((channel) => (
              <Cell
                key={channel}
                href={link(id, "layer", layer.alias, channel)}
                channel={channel}
                image={imageOf(channel)}
                patches={found.get(patchName(channel))}
                current={channel === number}
              />
            ))}
          </ol>
        </section>
      )}
    </div>
  );
}

interface CellProps {
  href: string;
  channel: number;
  image: Image | undefined;
  patches: ChannelPatches | undefined;
  current: boolean;
}

function Cell({ href, channel, image, patches, current }: CellProps) {
  return (
    <li>
      <a class="cell" href={href} aria-current={current || undefined}>
        {image ? (
          <Picture image={image} alt={`What channel ${channel} answers to`} />
        ) : (
          <span class="picture blank" aria-hidden="true" />
        )}
        {patches && (
          <span class="cell-patches">
            {patches.patches.slice(0, 4).map((patch) => (
              <Picture key={`${patch.item}`} image={patch.patch} alt={patch.label} />
            ))}
          </span>
        )}
        <span class="small muted numbers">{channel}</span>
      </a>
    </li>
  );
}

interface ChosenProps {
  id: string;
  layer: Layer;
  channel: number;
  image: Image | undefined;
  patches: ChannelPatches | undefined;
  busy: boolean;
  onPaint: () => void;
}

function Chosen({ id, layer, channel, image, patches, busy, onPaint }: ChosenProps) {
  const box = useRef<HTMLElement>(null);
  useEffect(() => box.current?.focus({ preventScroll: false }), [channel]);
  return (
    <section class="chosen" ref={box} tabIndex={-1} aria-label={`Channel ${channel}`}>
      <Picture class="chosen-picture" image={image} alt={`What channel ${channel} answers to`} />
      <div class="chosen-words">
        <div class="section-head">
          <h3>
            {layer.alias}, channel {channel}
          </h3>
          <a class="small" href={link(id, "layer", layer.alias)}>
            close
          </a>
        </div>
        {!image && (
          <button type="button" class="button quiet" disabled={busy} onClick={onPaint}>
            Paint it
          </button>
        )}
        {patches ? (
          <ul class="patches">
            {patches.patches.map((patch) => (
              <li key={`${patch.item}`}>
                <Picture image={patch.patch} alt={`${patch.itemName} at row ${patch.top}, column ${patch.left}`} />
                <span class="small muted numbers">{precise(patch.activation)}</span>
                {patch.label && <span class="small muted">{short(patch.label)}</span>}
              </li>
            ))}
          </ul>
        ) : (
          <p class="small muted">With a dataset, “Find patches” shows where in its pictures the channel answers most.</p>
        )}
      </div>
    </section>
  );
}

function Pager({ page, pages, onTurn }: { page: number; pages: number; onTurn: (page: number) => void }) {
  if (pages < 2) return null;
  return (
    <div class="pager small" role="group" aria-label="Pages of channels">
      <button type="button" class="button quiet icon" aria-label="Earlier channels" disabled={page === 0} onClick={() => onTurn(page - 1)}>
        ‹
      </button>
      <span class="numbers">
        {page + 1} / {pages}
      </span>
      <button type="button" class="button quiet icon" aria-label="Later channels" disabled={page === pages - 1} onClick={() => onTurn(page + 1)}>
        ›
      </button>
    </div>
  );
}

/** Filters that look like something: those of more than one pixel, over few enough channels. */
function worthSeeing(layer: Layer): boolean {
  const [filters = 0n, inputs = 0n, ...sides] = layer.weightShape;
  const tiles = inputs === 3n || inputs === 1n ? filters : filters * inputs;
  return layer.opType === "Conv" && sides.length === 2 && sides.some((side) => side > 1n) && tiles <= 1024n;
}

/** Tiles in a row, so that the last row is as full as the others where that can be; 0 leaves it to the server. */
function columns(layer: Layer): number {
  const [filters = 0n, inputs = 0n] = layer.weightShape;
  if (inputs !== 3n && inputs !== 1n) return 0;
  return [16, 12, 10, 8, 6].find((side) => Number(filters) % side === 0 && side * side <= 2.5 * Number(filters)) ?? 0;
}

function Filters({ id, layer }: { id: string; layer: Layer }) {
  const worth = worthSeeing(layer);
  const { value, failure } = useFetched(
    async () =>
      worth ? activations.getFilters({ model: `models/${id}`, layer: layer.output, columns: columns(layer) }) : undefined,
    [id, layer.output],
  );
  if (!worth) return null;
  return (
    <section class="filters" aria-labelledby="filters-title">
      <h2 id="filters-title">Filters</h2>
      <Banner failure={failure} />
      {value && (
        <>
          <Picture crisp image={value.picture} alt={`The ${layer.weightShape[0]} filters of ${layer.alias}`} />
          <p class="small muted">
            {String(layer.weightShape[0])} filters of {layer.weightShape.slice(2).join(" × ")}; zero is mid-grey, each is
            scaled by its own largest weight.
          </p>
        </>
      )}
    </section>
  );
}
