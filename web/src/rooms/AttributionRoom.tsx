import { useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { gradients } from "../api/clients";
import { useJob } from "../api/job";
import { type Attribution, AttributionMethod, type Attributions } from "../generated/endoscope/v1/gradient_pb";
import { Banner, Empty } from "../parts/Banner";
import { Check, Choice, More, Seed, Slider } from "../parts/fields";
import { Falling } from "../parts/Falling";
import { HeatMap } from "../parts/HeatMap";
import { ClassPicker, LayerPicker } from "../parts/pickers";
import { asImage, photo } from "../parts/photo";
import { PhotoDrop } from "../parts/PhotoDrop";
import { Download } from "../parts/Picture";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";
import { labelOf } from "../models";
import { percent, plural, short } from "../words";

const METHODS = [
  [AttributionMethod.GRAD_CAM, "Grad-CAM"],
  [AttributionMethod.INTEGRATED_GRADIENTS, "Integrated gradients"],
  [AttributionMethod.SMOOTHGRAD, "SmoothGrad"],
  [AttributionMethod.GRADIENT, "Gradient"],
  [AttributionMethod.GRADIENT_X_INPUT, "Gradient × input"],
  [AttributionMethod.GUIDED_BACKPROPAGATION, "Guided backpropagation"],
  [AttributionMethod.DECONVNET, "Deconvnet"],
  [AttributionMethod.OCCLUSION, "Occlusion"],
] as const;

const HINTS: Partial<Record<AttributionMethod, string>> = {
  [AttributionMethod.GRAD_CAM]: "The last feature maps, weighted by their slopes (Selvaraju et al. 2017).",
  [AttributionMethod.INTEGRATED_GRADIENTS]: "The mean slope on the way from a baseline, times the way (Sundararajan et al. 2017).",
  [AttributionMethod.SMOOTHGRAD]: "The mean slope over noisy copies (Smilkov et al. 2017).",
  [AttributionMethod.GRADIENT]: "The slope of the class's score (Simonyan et al. 2014).",
  [AttributionMethod.GRADIENT_X_INPUT]: "Slope times value (Shrikumar et al. 2016).",
  [AttributionMethod.GUIDED_BACKPROPAGATION]: "Slopes, positive ones only (Springenberg et al. 2015). Sharp, since it shows edges.",
  [AttributionMethod.DECONVNET]: "The signal sent back through rectifiers (Zeiler and Fergus 2014).",
  [AttributionMethod.OCCLUSION]: "How much the score falls when a window is covered (Zeiler and Fergus 2014).",
};

const NOISY: readonly AttributionMethod[] = [AttributionMethod.INTEGRATED_GRADIENTS, AttributionMethod.SMOOTHGRAD];

const nameOf = (method: AttributionMethod) => METHODS.find(([known]) => known === method)![1];

/** What a method answered, or why it did not. */
interface Answer {
  method: AttributionMethod;
  whole?: Attributions;
  found?: Attribution;
  trouble?: string;
}

export function AttributionRoom({ id, model }: RoomProps) {
  const taken = photo.use();
  const job = useJob<Attributions>();
  const [wanted, setWanted] = useState<number>();
  const [method, setMethod] = useState<AttributionMethod>(AttributionMethod.GRAD_CAM);
  const [all, setAll] = useState(false);
  const [samples, setSamples] = useState(32);
  const { height = 0, width = 0 } = model.preprocessing ?? {};
  const widest = Math.max(2, Math.min(height || 224, width || 224) >> 1);
  const [extent, setExtent] = useState(Math.min(32, widest));
  const [layer, setLayer] = useState("");
  const [seed, setSeed] = useState(0);
  const [busy, setBusy] = useState(false);
  const [asked, setAsked] = useState<readonly AttributionMethod[]>([]);
  const [answers, setAnswers] = useState<readonly Answer[]>([]);

  /** One method after the other: each map shows when it is there, and one that a model can't be asked stops no other. */
  async function start() {
    const methods = all ? METHODS.map(([known]) => known) : [method];
    const image = await asImage(taken!, 1024);
    setBusy(true);
    setAsked(methods);
    setAnswers([]);
    let given: readonly Answer[] = [];
    for (const next of methods) {
      const ended = await job.start((signal) =>
        gradients.attribute(
          {
            model: `models/${id}`,
            image,
            methods: [next],
            ...(wanted === undefined ? {} : { classIndex: wanted }),
            ...(next === AttributionMethod.OCCLUSION ? { window: extent, stride: Math.ceil(extent / 2) } : {}),
            ...(next === AttributionMethod.GRAD_CAM ? { layer } : {}),
            samples,
            seed: BigInt(seed),
            options: { previewEvery: 0 },
          },
          { signal },
        ),
      );
      if (ended.state === "stopped") break;
      const { result, failure } = ended;
      // What stands between one method and the model is told in its place; of a single one above.
      if (failure && methods.length > 1) given = [...given, { method: next, trouble: failure.words }];
      if (result) given = [...given, { method: next, whole: result, found: result.attributions[0]! }];
      setAnswers(given);
    }
    setBusy(false);
  }

  const chosen = all || NOISY.includes(method);
  const windowed = all || method === AttributionMethod.OCCLUSION;
  return (
    <Stage
      title="Attribution"
      lead="What in a photo spoke for a class. Methods disagree; the scores tell which map to believe: take away what it calls important, and the network should give the class up."
      act="Explain"
      ready={taken !== undefined}
      running={busy}
      onStart={() => void start()}
      controls={
        <>
          <PhotoDrop />
          <ClassPicker model={model} value={wanted} onChange={setWanted} optional="the one that the network sees" />
          {!all && <Choice label="Method" value={method} options={METHODS} onChange={setMethod} hint={HINTS[method]} />}
          <Check label="All methods side by side" value={all} onChange={setAll} />
          <More>
            {chosen && <Slider label="Noisy copies, or steps of the way" value={samples} min={4} max={256} step={4} onChange={setSamples} />}
            {windowed && (
              <Slider
                label="Window that covers"
                value={extent}
                min={2}
                max={widest}
                show={(value) => `${value} px`}
                onChange={setExtent}
              />
            )}
            {(all || method === AttributionMethod.GRAD_CAM) && (
              <LayerPicker model={model} value={layer} onChange={setLayer} standard="the last with positions" spatial />
            )}
            <Seed value={seed} onChange={setSeed} />
          </More>
        </>
      }
    >
      <Banner failure={asked.length > 1 ? undefined : job.failure} retry={() => void start()} />
      {asked.length < 2 ? (
        <Progress job={job} onStop={job.stop} />
      ) : busy ? (
        <Progress job={job} onStop={job.stop} part={`method ${answers.length + 1} of ${asked.length}`} />
      ) : (
        answers.length < asked.length && (
          <p class="progress over small muted numbers" role="status">
            Stopped after {plural(answers.length, "method")}
          </p>
        )
      )}
      {answers.length > 0 ? (
        <Maps answers={answers} label={(index) => short(labelOf(model, index))} />
      ) : (
        !busy && !job.failure && (
          <Empty title={taken ? "Ready" : "A photo to explain"}>
            {taken ? "The photo will stand here under its heat map." : "Drop one into the box."}
          </Empty>
        )
      )}
    </Stage>
  );
}

function Maps({ answers, label }: { answers: readonly Answer[]; label: (index: number) => string }) {
  const [share, setShare] = useState(1);
  const [wanted, setWanted] = useState<AttributionMethod>();
  const there = answers.filter((answer) => answer.found);
  const shown = there.find((answer) => answer.method === wanted) ?? there[0];
  const deletions = there.map((answer) => answer.found!.deletion);
  const insertions = there.map((answer) => answer.found!.insertion);
  return (
    <>
      {shown && <Large answer={shown} share={share} setShare={setShare} label={label} />}
      {answers.length > 1 && (
        <section class="maps" aria-label="All methods">
          <h3>
            All methods <span>(area under the class's probability: deletion, lower is better; insertion, higher is better)</span>
          </h3>
          <ol>
            {answers.map(({ method, whole, found, trouble }) => (
              <li key={method}>
                {found ? (
                  <button type="button" class="map" aria-pressed={shown?.method === method} onClick={() => setWanted(method)}>
                    <HeatMap photo={whole!.original} heat={found.picture} share={share} alt="" />
                    <span class="map-name small">{nameOf(method)}</span>
                    <Score name="deletion" value={found.deletion} best={Math.min(...deletions)} />
                    <Score name="insertion" value={found.insertion} best={Math.max(...insertions)} />
                  </button>
                ) : (
                  <span class="map">
                    <span class="map-none small muted">{trouble}</span>
                    <span class="map-name small">{nameOf(method)}</span>
                  </span>
                )}
              </li>
            ))}
          </ol>
        </section>
      )}
    </>
  );
}

function Score({ name, value, best }: { name: string; value: number; best: number }) {
  return (
    <span class={`small numbers ${value === best ? "good" : "muted"}`}>
      {name} {value.toFixed(3)}
      {value === best && <span class="hidden"> (the best)</span>}
    </span>
  );
}

interface LargeProps {
  answer: Answer;
  share: number;
  setShare: (share: number) => void;
  label: (index: number) => string;
}

function Large({ answer, share, setShare, label }: LargeProps) {
  const found = answer.found!;
  const { original, score } = answer.whole!;
  const name = label(score?.classIndex ?? 0);
  const method = nameOf(answer.method);
  return (
    <div class="beside">
      <figure class="shown">
        <HeatMap photo={original} heat={found.picture} share={share} alt={`What spoke for ${name}, by ${method}`} />
        <figcaption class="small muted">
          {method}: what spoke for <strong>{name}</strong>
          <span class="numbers">, {percent(score?.probability ?? 0)} sure</span>
        </figcaption>
        <Slider
          label="Heat map"
          value={Math.round(100 * share)}
          min={0}
          max={100}
          show={(value) => `${value}%`}
          onChange={(value) => setShare(value / 100)}
        />
      </figure>
      <div class="aside">
        <Falling
          title="Probability over pixels changed"
          series={[
            { name: "deletion", values: found.deletionCurve, area: found.deletion, hint: "lower is better" },
            { name: "insertion", values: found.insertionCurve, area: found.insertion, hint: "higher is better" },
          ]}
        />
        {found.completenessError !== undefined && (
          <p class="small">
            Completeness error <span class="numbers">{percent(found.completenessError)}</span>
            <br />
            <span class="muted">How far the values' sum is from the change of the score that it should be. More steps make it smaller.</span>
          </p>
        )}
        <Download image={found.picture} name={`${method.toLowerCase().replaceAll(/[^a-z]+/g, "-")}-${name.replaceAll(" ", "-")}`} />
      </div>
    </div>
  );
}
