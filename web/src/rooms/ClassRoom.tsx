import { useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { gradients } from "../api/clients";
import { useJob } from "../api/job";
import { ClassPreset, type ClassVisualization } from "../generated/endoscope/v1/gradient_pb";
import { labelOf } from "../models";
import { Banner, Empty } from "../parts/Banner";
import { Bars } from "../parts/Bars";
import { More, Seed, Segments, Slider } from "../parts/fields";
import { Line } from "../parts/Line";
import { ClassPicker } from "../parts/pickers";
import { Download, Picture } from "../parts/Picture";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";
import { short } from "../words";

const PRESETS = [
  [ClassPreset.FOURIER, "Fourier"],
  [ClassPreset.MACO, "MACO"],
  [ClassPreset.SMOOTH, "Smooth"],
  [ClassPreset.PLAIN, "Plain"],
] as const;

const HINTS: Partial<Record<ClassPreset, string>> = {
  [ClassPreset.FOURIER]: "Decorrelated colours and random transforms (Olah et al. 2017): other networks recognise it too.",
  [ClassPreset.MACO]: "Only the phase changes, at the magnitude of natural pictures (Fel et al. 2023).",
  [ClassPreset.SMOOTH]: "Pixels with total variation, blur and jitter (Yosinski et al. 2015).",
  [ClassPreset.PLAIN]: "The bare formula (Simonyan et al. 2014): only this network recognises it.",
};

export function ClassRoom({ id, model }: RoomProps) {
  const job = useJob<ClassVisualization>();
  const [wanted, setWanted] = useState<number | undefined>(model.labels.indexOf("espresso") >= 0 ? model.labels.indexOf("espresso") : 0);
  const [preset, setPreset] = useState<ClassPreset>(ClassPreset.FOURIER);
  const [steps, setSteps] = useState(64);
  const [seed, setSeed] = useState(0);
  const [shown, setShown] = useState(0);

  function start() {
    setShown(wanted!);
    return job.start((signal) =>
      gradients.visualizeClass(
        {
          model: `models/${id}`,
          classes: [wanted!],
          steps,
          preset,
          seed: BigInt(seed),
          options: { previewEvery: 1 },
        },
        { signal },
      ),
    );
  }

  const made = job.result?.pictures[0];
  const name = short(labelOf(model, shown));
  const picture = made?.image ?? job.previews[0];
  return (
    <Stage
      title="Class"
      lead="A picture is changed, from noise, until the network answers with one class as loudly as it can. What appears is what the class looks like to it."
      act="Visualise"
      ready={wanted !== undefined}
      running={job.state === "running"}
      onStart={() => void start()}
      controls={
        <>
          <ClassPicker model={model} value={wanted} onChange={setWanted} />
          <Segments label="How" value={preset} options={PRESETS} onChange={setPreset} hint={HINTS[preset]} />
          <Slider label="Steps" value={steps} min={8} max={512} step={8} onChange={setSteps} />
          <More>
            <Seed value={seed} onChange={setSeed} />
          </More>
        </>
      }
    >
      <Banner failure={job.failure} retry={() => void start()} />
      <Progress job={job} onStop={job.stop} />
      {picture ? (
        <div class="beside">
          <figure class="shown">
            <Picture class="large" image={picture} alt={`What ${name} looks like to the network`} />
            <figcaption class="small muted">{name}</figcaption>
          </figure>
          <div class="aside">
            <Line name="logit" values={[...(job.losses.get("logit") ?? job.losses.get("logit[0]") ?? [])]} />
            {made && <Bars title="What the network sees in it" scores={made.classification?.top ?? []} marked={shown} />}
            {made && <Download image={made.image} name={name.replaceAll(" ", "-")} />}
          </div>
        </div>
      ) : (
        job.state !== "running" && !job.failure && (
          <Empty title="Nothing drawn yet">Choose a class, and watch its picture come out of the noise.</Empty>
        )
      )}
    </Stage>
  );
}
