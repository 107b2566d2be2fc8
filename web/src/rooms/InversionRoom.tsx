import { useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { gradients } from "../api/clients";
import { useJob } from "../api/job";
import type { Inversion, LayerInversion } from "../generated/endoscope/v1/gradient_pb";
import type { Model } from "../generated/endoscope/v1/model_pb";
import { Banner, Empty } from "../parts/Banner";
import { Curve } from "../parts/Curve";
import { More, Seed, Slider } from "../parts/fields";
import { asImage, photo } from "../parts/photo";
import { PhotoDrop } from "../parts/PhotoDrop";
import { Picture } from "../parts/Picture";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";
import { link } from "../router";
import { plural, precise } from "../words";

/** A few layers from the first to the last, closer to each other at first, where most is lost. */
function spread(model: Model, wanted: number): string[] {
  const layers = model.layers.filter((layer) => layer.shape.length === 4 && layer.weightShape.length > 0);
  const from = layers.length ? layers : model.layers;
  const places = Array.from({ length: wanted }, (_, index) => Math.round((index / (wanted - 1 || 1)) ** 2 * (from.length - 1)));
  return [...new Set(places.map((place) => from[place]!.alias))];
}

export function InversionRoom({ id, model }: RoomProps) {
  const taken = photo.use();
  const job = useJob<Inversion>();
  const [layers, setLayers] = useState(() => spread(model, 4));
  const [steps, setSteps] = useState(160);
  const [seed, setSeed] = useState(0);

  async function start() {
    const image = await asImage(taken!, 1024);
    await job.start((signal) =>
      gradients.invertRepresentation(
        {
          model: `models/${id}`,
          image,
          layers,
          steps,
          seed: BigInt(seed),
          options: { previewEvery: 5 },
        },
        { signal },
      ),
    );
  }

  const toggle = (alias: string) =>
    setLayers((now) => {
      const chosen = new Set(now);
      if (!chosen.delete(alias)) chosen.add(alias);
      return model.layers.map((layer) => layer.alias).filter((name) => chosen.has(name));
    });

  return (
    <Stage
      title="Inversion"
      lead="From what a layer gives for a photo, and nothing else, a photo is sought that gives the same. The more it resembles yours, the more that layer still tells about it (Mahendran and Vedaldi 2015)."
      act="Invert"
      ready={taken !== undefined && layers.length > 0}
      running={job.state === "running"}
      onStart={() => void start()}
      controls={
        <>
          <PhotoDrop />
          <fieldset class="field">
            <legend>{plural(layers.length, "layer")}</legend>
            <div class="checks" tabIndex={0} role="group" aria-label="Layers">
              {model.layers.map((layer) => (
                <label key={layer.output} class="check small">
                  <input type="checkbox" checked={layers.includes(layer.alias)} onChange={() => toggle(layer.alias)} />
                  <span>{layer.alias}</span>
                </label>
              ))}
            </div>
          </fieldset>
          <Slider label="Steps for each layer" value={steps} min={20} max={1200} step={20} onChange={setSteps} />
          <More>
            <Seed value={seed} onChange={setSeed} />
          </More>
        </>
      }
    >
      <Banner failure={job.failure} retry={() => void start()} />
      <Progress job={job} onStop={job.stop} />
      {job.state !== "done" && job.previews[0] && (
        <figure class="shown">
          <Picture class="large" image={job.previews[0]} alt="The inversion as it stands" />
          <figcaption class="small muted">{job.step?.stage}</figcaption>
        </figure>
      )}
      {job.result && <Found id={id} inversion={job.result} />}
      {job.state === "idle" && (
        <Empty title={taken ? "Ready" : "A photo to look for"}>
          {taken ? "Each layer's picture will stand here beside the original." : "Drop one into the box."}
        </Empty>
      )}
    </Stage>
  );
}

function Found({ id, inversion }: { id: string; inversion: Inversion }) {
  return (
    <>
      <ol class="strip">
        <li>
          <figure>
            <Picture image={inversion.original} alt="The photo as the network saw it" />
            <figcaption class="small">
              the photo
              <span class="muted"> as the network saw it</span>
            </figcaption>
          </figure>
        </li>
        {inversion.layers.map((layer) => (
          <Inverted key={layer.layer} id={id} layer={layer} />
        ))}
      </ol>
      {inversion.layers.length > 1 && (
        <Curve
          title="How much each layer still tells"
          unit="dB"
          points={inversion.layers.map((layer) => ({ name: layer.layer, value: layer.psnr }))}
        />
      )}
    </>
  );
}

function Inverted({ id, layer }: { id: string; layer: LayerInversion }) {
  return (
    <li>
      <figure>
        <Picture image={layer.image} alt={`What ${layer.layer} tells of the photo`} />
        <figcaption class="small">
          <a href={link(id, "layer", layer.layer)}>{layer.layer}</a>
          <span class="muted numbers">
            {" "}
            {Number.isFinite(layer.psnr) ? `${layer.psnr.toFixed(1)} dB` : "exact"}, SSIM {layer.ssim.toFixed(2)}, features off by{" "}
            {precise(layer.featureError, 2)}
          </span>
        </figcaption>
      </figure>
    </li>
  );
}
