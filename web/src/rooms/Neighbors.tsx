import { useEffect, useRef, useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { activations } from "../api/clients";
import { type Failure, isStop, toFailure } from "../api/failure";
import { useDataset } from "../datasets";
import { Metric, type Neighbor, type NeighborList } from "../generated/endoscope/v1/activation_pb";
import { Banner, Empty } from "../parts/Banner";
import { Check, Segments, Slider } from "../parts/fields";
import { NeighborStrip } from "../parts/NeighborStrip";
import { DatasetPicker, LayerPicker } from "../parts/pickers";
import { asImage, photo } from "../parts/photo";
import { PhotoDrop } from "../parts/PhotoDrop";
import { Stage } from "../parts/Stage";
import { Thumbnail } from "../scatter/Thumbnail";

const METRICS = [
  [Metric.L2, "distance"],
  [Metric.COSINE, "angle"],
] as const;

interface Answer {
  list: NeighborList;
  dataset: string;
  /** The item that was asked about; the photo if there is none. */
  item: Neighbor | undefined;
  url: string;
}

export function Neighbors({ id, model }: RoomProps) {
  const taken = photo.use();
  const dataset = useDataset();
  const [layer, setLayer] = useState("");
  const [metric, setMetric] = useState<Metric>(Metric.L2);
  const [k, setK] = useState(8);
  const [pixels, setPixels] = useState(true);
  const [answer, setAnswer] = useState<Answer>();
  const [failure, setFailure] = useState<Failure>();
  const [busy, setBusy] = useState(false);
  const controller = useRef<AbortController>(undefined);
  useEffect(() => () => controller.current?.abort(), []);

  async function ask(item?: Neighbor) {
    controller.current?.abort();
    const mine = new AbortController();
    controller.current = mine;
    setBusy(true);
    setFailure(undefined);
    try {
      const response = await activations.findNeighbors(
        {
          model: `models/${id}`,
          dataset: `datasets/${dataset.id}`,
          layer,
          metric,
          k: Math.min(k, available),
          pixelSpace: pixels,
          thumbnailSize: 160,
          ...(item ? { items: [item.item] } : { images: [await asImage(taken!, 1024)] }),
        },
        { signal: mine.signal },
      );
      setAnswer({ list: response.results[0]!, dataset: dataset.id, item, url: taken?.url ?? "" });
    } catch (error) {
      if (!isStop(error)) setFailure(toFailure(error));
    }
    if (controller.current === mine) setBusy(false);
  }

  const there = dataset.list.value?.find((one) => one.name === `datasets/${dataset.id}`);
  const available = Math.max(1, Number(there?.itemCount ?? 9n) - (there?.skipped.length ?? 0) - 1);
  return (
    <Stage
      title="Neighbours"
      lead="The pictures of a dataset that are nearest to yours in what a layer gives, and beside them those that are nearest as pixels. Choose one to go on from there."
      act="Find"
      ready={taken !== undefined && dataset.id !== ""}
      running={busy}
      onStart={() => void ask()}
      controls={
        <>
          <PhotoDrop />
          <DatasetPicker datasets={dataset.list} value={dataset.id} onChange={dataset.choose} />
          <LayerPicker model={model} value={layer} onChange={setLayer} standard="the one before the logits" />
          <Slider label="How many" value={k} min={1} max={24} onChange={setK} />
          <Segments label="Nearest by" value={metric} options={METRICS} onChange={setMetric} />
          <Check label="As pixels too" value={pixels} onChange={setPixels} />
        </>
      }
    >
      <Banner failure={failure} retry={() => void ask()} />
      {busy && (
        <div class="progress">
          <div class="progress-words small">
            <span role="status">Looking at the pictures</span>
          </div>
          <progress aria-label="Progress" />
          <button type="button" class="button stop" onClick={() => controller.current?.abort()}>
            Stop
          </button>
        </div>
      )}
      {answer ? (
        <>
          <figure class="query">
            {answer.item ? (
              <Thumbnail key={String(answer.item.item)} dataset={answer.dataset} item={Number(answer.item.item)} alt={`The picture ${answer.item.itemName}`} />
            ) : (
              <img class="picture thumbnail" src={answer.url} alt="The photo that was asked about" />
            )}
            <figcaption class="small muted">{answer.item ? answer.item.itemName : "your photo"}</figcaption>
          </figure>
          <NeighborStrip
            title={`Alike in ${layer || "the layer before the logits"}`}
            neighbors={answer.list.neighbors}
            onChoose={(neighbor) => void ask(neighbor)}
          />
          {answer.list.pixelNeighbors.length > 0 && (
            <NeighborStrip
              title="Alike as pixels"
              neighbors={answer.list.pixelNeighbors}
              onChoose={(neighbor) => void ask(neighbor)}
            />
          )}
        </>
      ) : (
        !busy && !failure && (
          <Empty title={taken ? "Ready" : "A photo to compare with"}>
            {taken ? "What is alike to the network is often not alike as pixels." : "Drop one into the box."}
          </Empty>
        )
      )}
    </Stage>
  );
}
