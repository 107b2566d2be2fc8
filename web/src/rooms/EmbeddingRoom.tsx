import { useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { activations, datasets } from "../api/clients";
import { type Failure, isStop, toFailure } from "../api/failure";
import { useJob } from "../api/job";
import { everyPage } from "../api/pages";
import { useDataset } from "../datasets";
import { type Embedding, EmbeddingMethod, type NeighborList } from "../generated/endoscope/v1/activation_pb";
import { floats } from "../tensors";
import { Banner, Empty, Waiting } from "../parts/Banner";
import { More, Seed, Segments, Slider } from "../parts/fields";
import { NeighborStrip } from "../parts/NeighborStrip";
import { DatasetPicker, LayerPicker } from "../parts/pickers";
import { Picture } from "../parts/Picture";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";
import { type Place, Scatter } from "../scatter/Scatter";
import { percent } from "../words";

const METHODS = [
  [EmbeddingMethod.PCA, "PCA"],
  [EmbeddingMethod.TSNE, "t-SNE"],
  [EmbeddingMethod.UMAP, "UMAP"],
] as const;

interface Plane {
  dataset: string;
  layer: string;
  places: Place[];
  coordinates: Float32Array;
  embedding: Embedding;
}

/** The items that points stand for: those of the dataset in order, without what could not be decoded. */
async function placesOf(dataset: string, embedding: Embedding): Promise<Place[]> {
  const { itemNames, labels } = embedding;
  const items = await everyPage(
    ({ pageToken }) => datasets.listItems({ dataset, pageSize: 1000, pageToken, thumbnailSize: 0 }),
    (page) => page.items,
  );
  const indices = new Map(items.map(({ item, itemName }) => [itemName, Number(item)]));
  return itemNames.map((name, index) => ({ item: indices.get(name) ?? index, name, label: labels[index] ?? "" }));
}

export function EmbeddingRoom({ id, model }: RoomProps) {
  const job = useJob<Embedding>();
  const dataset = useDataset();
  const [layer, setLayer] = useState("");
  const [method, setMethod] = useState<EmbeddingMethod>(EmbeddingMethod.PCA);
  const [perplexity, setPerplexity] = useState(20);
  const [iterations, setIterations] = useState(500);
  const [seed, setSeed] = useState(0);
  const [plane, setPlane] = useState<Plane>();
  const [trouble, setTrouble] = useState<Failure>();

  async function start() {
    setPlane(undefined);
    setTrouble(undefined);
    const tsne = method === EmbeddingMethod.TSNE;
    const { result: embedding } = await job.start((signal) =>
      activations.embedFeatures(
        {
          model: `models/${id}`,
          dataset: `datasets/${dataset.id}`,
          layer,
          method,
          ...(tsne ? { perplexity, iterations } : {}),
          seed: BigInt(seed),
          options: { previewEvery: 25 },
        },
        { signal },
      ),
    );
    if (!embedding) return;
    try {
      const places = await placesOf(dataset.id, embedding);
      setPlane({ dataset: dataset.id, layer, places, coordinates: floats(embedding.coordinates!), embedding });
    } catch (error) {
      setTrouble(toFailure(error));
    }
  }

  return (
    <Stage
      title="Embedding"
      lead="Each picture of a dataset as a point: near to each other is what the network finds alike. Point at one to see it, choose it for its neighbours."
      act="Embed"
      ready={dataset.id !== ""}
      running={job.state === "running"}
      onStart={() => void start()}
      controls={
        <>
          <DatasetPicker datasets={dataset.list} value={dataset.id} onChange={dataset.choose} />
          <LayerPicker model={model} value={layer} onChange={setLayer} standard="the one before the logits" />
          <Segments label="How" value={method} options={METHODS} onChange={setMethod} />
          {method === EmbeddingMethod.TSNE && (
            <>
              <Slider label="Perplexity" value={perplexity} min={2} max={100} onChange={setPerplexity} />
              <Slider label="Iterations" value={iterations} min={250} max={2000} step={50} onChange={setIterations} />
            </>
          )}
          <More>
            <Seed value={seed} onChange={setSeed} />
          </More>
        </>
      }
    >
      <Banner failure={job.failure ?? trouble} retry={() => void start()} />
      <Progress job={job} onStop={job.stop} />
      {job.state === "running" && job.previews[0] && (
        <Picture class="large" image={job.previews[0]} alt="The points as they stand" />
      )}
      {plane && <Result key={plane.dataset} id={id} plane={plane} />}
      {!plane && job.state !== "running" && !job.failure && !trouble && (
        <Empty title="No points yet">The first time the features of each picture are computed, and kept.</Empty>
      )}
    </Stage>
  );
}

function Result({ id, plane }: { id: string; plane: Plane }) {
  const [chosen, setChosen] = useState<number>();
  const [near, setNear] = useState<NeighborList>();
  const [waiting, setWaiting] = useState(false);
  const [failure, setFailure] = useState<Failure>();
  const { places, embedding, layer, dataset } = plane;

  async function choose(index: number) {
    setChosen(index);
    setWaiting(true);
    setFailure(undefined);
    try {
      const answer = await activations.findNeighbors({
        model: `models/${id}`,
        dataset: `datasets/${dataset}`,
        layer,
        items: [BigInt(places[index]!.item)],
        k: Math.min(8, places.length - 1),
        thumbnailSize: 160,
      });
      setNear(answer.results[0]);
    } catch (error) {
      if (!isStop(error)) setFailure(toFailure(error));
    }
    setWaiting(false);
  }

  const { trustworthiness, knnPurity, silhouette } = embedding;
  const variance = embedding.explainedVarianceRatio.slice(0, 2).reduce((sum, share) => sum + share, 0);
  return (
    <>
      <p class="small muted numbers">
        {[
          `neighbourhoods kept ${trustworthiness.toFixed(2)}`,
          variance ? `variance shown ${percent(variance)}` : "",
          knnPurity === undefined ? "" : `neighbours of one label ${percent(knnPurity)}`,
          silhouette === undefined ? "" : `silhouette ${silhouette.toFixed(2)}`,
        ]
          .filter(Boolean)
          .join("  ·  ")}
      </p>
      <Scatter
        dataset={dataset}
        places={places}
        coordinates={plane.coordinates}
        chosen={chosen}
        onChoose={(index) => void choose(index)}
      />
      <Banner failure={failure} />
      {waiting && !near && <Waiting what="Looking for the neighbours" />}
      {near && chosen !== undefined && (
        <NeighborStrip
          title={`Nearest to ${places[chosen]!.name}`}
          neighbors={near.neighbors}
          onChoose={({ item }) => {
            const index = places.findIndex((place) => place.item === Number(item));
            if (index >= 0) void choose(index);
          }}
        />
      )}
    </>
  );
}
