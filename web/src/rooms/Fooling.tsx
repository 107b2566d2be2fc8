import { useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { gradients } from "../api/clients";
import { useJob } from "../api/job";
import { FoolingMethod, type FoolingImages } from "../generated/endoscope/v1/gradient_pb";
import { labelOf } from "../models";
import { Banner, Empty } from "../parts/Banner";
import { Bars } from "../parts/Bars";
import { More, Seed, Segments, Slider } from "../parts/fields";
import { Line } from "../parts/Line";
import { ClassPicker } from "../parts/pickers";
import { Download, Picture } from "../parts/Picture";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";
import { percent, short } from "../words";

const METHODS = [
  [FoolingMethod.GRADIENT, "Gradient"],
  [FoolingMethod.CPPN, "Evolution"],
] as const;

const HINTS: Partial<Record<FoolingMethod, string>> = {
  [FoolingMethod.GRADIENT]: "Noise is changed along the gradient: fast, and it stays noise to us.",
  [FoolingMethod.CPPN]: "Patterns are bred without any gradient (Nguyen et al. 2015): slow, and regular.",
};

export function Fooling({ id, model }: RoomProps) {
  const job = useJob<FoolingImages>();
  const [wanted, setWanted] = useState<number | undefined>(Math.min(340, Math.max(0, model.classCount - 1)));
  const [method, setMethod] = useState<FoolingMethod>(FoolingMethod.GRADIENT);
  const [confidence, setConfidence] = useState(0.99);
  const [seed, setSeed] = useState(0);
  const [shown, setShown] = useState(0);

  function start() {
    setShown(wanted!);
    return job.start((signal) =>
      gradients.createFoolingImage(
        {
          model: `models/${id}`,
          classes: [wanted!],
          method,
          confidence,
          seed: BigInt(seed),
          options: { previewEvery: 1 },
        },
        { signal },
      ),
    );
  }

  const made = job.result?.images[0];
  const name = short(labelOf(model, shown));
  const picture = made?.image ?? job.previews[0];
  const sure = made?.score?.probability ?? job.losses.get("confidence[0]")?.at(-1);
  return (
    <Stage
      title="Fooling"
      lead="A picture that shows nothing to us, and which the network is sure of. Confidence is no sign that something is there."
      act="Fool it"
      ready={wanted !== undefined}
      running={job.state === "running"}
      onStart={() => void start()}
      controls={
        <>
          <ClassPicker model={model} value={wanted} onChange={setWanted} />
          <Segments label="How" value={method} options={METHODS} onChange={setMethod} hint={HINTS[method]} />
          <Slider
            label="Until it is this sure"
            value={confidence}
            min={0.5}
            max={0.999}
            step={0.001}
            show={(value) => `${(100 * value).toFixed(1)}%`}
            onChange={setConfidence}
          />
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
            <Picture class="large" image={picture} alt={`A picture that the network takes for ${name}`} />
            <figcaption class="small muted">
              {name}
              {sure !== undefined && <span class="numbers">, {percent(sure)}</span>}
            </figcaption>
          </figure>
          <div class="aside">
            {made && !made.success && <p class="small warn">The confidence asked for was not reached.</p>}
            <Line name="confidence" values={job.losses.get("confidence[0]") ?? []} />
            {made && <Bars title="What the network sees in it" scores={made.classification?.top ?? []} marked={shown} />}
            {made && <Download image={made.image} name={`fooling-${name.replaceAll(" ", "-")}`} />}
          </div>
        </div>
      ) : (
        job.state !== "running" && !job.failure && <Empty title="Nothing yet">Choose a class that it shall be sure of.</Empty>
      )}
    </Stage>
  );
}
