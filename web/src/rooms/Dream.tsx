import { useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { gradients } from "../api/clients";
import { useJob } from "../api/job";
import type { Dream as Dreamed } from "../generated/endoscope/v1/gradient_pb";
import { Banner, Empty } from "../parts/Banner";
import { More, Seed, Segments, Slider } from "../parts/fields";
import { LayerPicker } from "../parts/pickers";
import { asImage, photo } from "../parts/photo";
import { PhotoDrop } from "../parts/PhotoDrop";
import { Compare, Download, Picture } from "../parts/Picture";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";

const SIZES = [
  [320, "small"],
  [512, "medium"],
  [1024, "large"],
] as const;

export function Dream({ id, model }: RoomProps) {
  const taken = photo.use();
  const job = useJob<Dreamed>();
  const [layer, setLayer] = useState("");
  const [side, setSide] = useState(512);
  const [steps, setSteps] = useState(10);
  const [octaves, setOctaves] = useState(4);
  const [octaveScale, setOctaveScale] = useState(1.4);
  const [stepSize, setStepSize] = useState(1.5);
  const [jitter, setJitter] = useState(32);
  const [seed, setSeed] = useState(0);
  const [dreamt, setDreamt] = useState("");

  async function start() {
    const image = await asImage(taken!, side);
    setDreamt(taken!.url);
    await job.start((signal) =>
      gradients.deepDream(
        {
          model: `models/${id}`,
          image,
          layers: layer ? [{ layer }] : [],
          steps,
          octaves,
          octaveScale,
          stepSize,
          jitter,
          seed: BigInt(seed),
          options: { previewEvery: 1 },
        },
        { signal },
      ),
    );
  }

  const result = job.result?.image;
  return (
    <Stage
      title="Dream"
      lead="The photo is changed so that what a layer already sees in it is seen more clearly: early layers draw lines and textures, late ones parts of things (Mordvintsev et al. 2015)."
      act="Dream"
      ready={taken !== undefined}
      running={job.state === "running"}
      onStart={() => void start()}
      controls={
        <>
          <PhotoDrop />
          <LayerPicker model={model} value={layer} onChange={setLayer} standard="one in the middle" spatial />
          <Slider label="Steps in each octave" value={steps} min={1} max={40} onChange={setSteps} />
          <Segments label="Size" value={side} options={SIZES} onChange={setSide} />
          <More>
            <Slider label="Octaves" value={octaves} min={1} max={8} onChange={setOctaves} />
            <Slider
              label="Octave over octave"
              value={octaveScale}
              min={1.1}
              max={2}
              step={0.05}
              show={(value) => `× ${value.toFixed(2)}`}
              onChange={setOctaveScale}
            />
            <Slider
              label="Step size"
              value={stepSize}
              min={0.25}
              max={6}
              step={0.25}
              show={(value) => value.toFixed(2)}
              onChange={setStepSize}
            />
            <Slider label="Jitter" value={jitter} min={0} max={64} show={(value) => `${value} px`} onChange={setJitter} />
            <Seed value={seed} onChange={setSeed} />
          </More>
        </>
      }
    >
      <Banner failure={job.failure} retry={() => void start()} />
      <Progress job={job} onStop={job.stop} />
      {result && taken && dreamt === taken.url ? (
        <>
          <Compare before={dreamt} after={result} alt="The photo" />
          <Download image={result} name={`dream-${taken.name.replace(/\.\w+$/, "")}`} />
        </>
      ) : job.previews[0] || result ? (
        <Picture class="large" image={result ?? job.previews[0]} alt="The dream as it stands" />
      ) : (
        job.state !== "running" &&
        !job.failure && (
          <Empty title={taken ? "Ready to dream" : "A photo to dream on"}>
            {taken ? "The picture shows here as it changes." : "Drop one into the box. It goes to this server and nowhere else."}
          </Empty>
        )
      )}
    </Stage>
  );
}
