import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { techniques } from "../api/clients";
import { useJob } from "../api/job";
import type { Model } from "../generated/endoscope/v1/model_pb";
import type { Technique, TechniqueResult } from "../generated/endoscope/v1/technique_pb";
import { Banner, Empty, Waiting } from "../parts/Banner";
import { Choice, More, Seed } from "../parts/fields";
import { type Photo, photo } from "../parts/photo";
import { PhotoDrop, PhotosDrop } from "../parts/PhotoDrop";
import { Picture } from "../parts/Picture";
import { Plot } from "../parts/Plot";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";
import { link } from "../router";
import { About } from "../techniques/About";
import { firstEntries, read } from "../techniques/entries";
import { useTechniques } from "../techniques/list";
import { ParameterField } from "../techniques/ParameterField";
import { asNamedImages, givenFor, type Slot, slotsOf } from "../techniques/pictures";
import { ResultView } from "../techniques/ResultView";
import { type Parameter, parametersOf, sentence } from "../techniques/schema";

/** How many parameters stand above "More settings", and from how many on others go there. */
const [FIRST, MANY] = [3, 5];

/** One room for all techniques that are one file each. */
export function TechniqueRoom({ id, model, rest: [wanted] }: RoomProps) {
  const { value: all, failure } = useTechniques();
  const chosenHere = useRef(false);
  if (failure) return <Banner failure={failure} />;
  if (!all) return <Waiting what="Loading the techniques" />;
  if (!all.length) return <Empty title="This server has no techniques of this kind" />;
  const chosen = wanted ? all.find(({ name }) => name === wanted) : all[0];
  if (!chosen) return <Banner failure={{ title: "Not found", words: `This server has no technique “${wanted}”.` }} />;
  return <OfTechnique key={chosen.name} id={id} model={model} technique={chosen} all={all} chosenHere={chosenHere} />;
}

interface Props {
  id: string;
  model: Model;
  technique: Technique;
  all: readonly Technique[];
  /** Whether it was chosen in this room; the form is another one then, and where one was in it is found again. */
  chosenHere: { current: boolean };
}

function OfTechnique({ id, model, technique, all, chosenHere }: Props) {
  const { name, summary, paper } = technique;
  const parameters = useMemo(() => parametersOf(technique.parametersSchema), [technique]);
  const slots = useMemo(() => slotsOf(technique.images), [technique]);
  const job = useJob<TechniqueResult>();
  const taken = photo.use();
  const [photos, setPhotos] = useState<Record<string, readonly Photo[]>>({});
  const [entries, setEntries] = useState(() => firstEntries(parameters));
  const [troubles, setTroubles] = useState<Record<string, string>>({});
  const [seed, setSeed] = useState(0);

  const given = (slot: Slot) => givenFor(slot, taken, photos);

  async function start() {
    const { values, troubles } = read(parameters, entries);
    setTroubles(troubles);
    if (Object.keys(troubles).length) return;
    const images = await asNamedImages(slots, given);
    const { failure } = await job.start((signal) =>
      techniques.runTechnique(
        { model: `models/${id}`, technique: name, parameters: values, images, seed: BigInt(seed), options: { previewEvery: 4 } },
        { signal },
      ),
    );
    setTroubles(troublesOf(failure?.fields, parameters));
  }

  const field = (parameter: Parameter) => (
    <ParameterField
      key={parameter.name}
      model={model}
      parameter={parameter}
      entry={entries[parameter.name]!}
      trouble={troubles[parameter.name] ?? ""}
      onChange={(entry) => {
        setEntries({ ...entries, [parameter.name]: entry });
        setTroubles({ ...troubles, [parameter.name]: "" });
      }}
    />
  );
  const first = parameters.length < MANY ? parameters.length : FIRST;
  const more = parameters.slice(first);
  const ready = slots.every((slot) => !slot.image.required || given(slot).length > 0);
  const running = job.state === "running";
  const toldAtField = Object.keys(troublesOf(job.failure?.fields, parameters)).length > 0;
  useFocus(troubles);
  useEffect(() => {
    if (chosenHere.current) document.querySelector<HTMLElement>(".controls select")?.focus();
    chosenHere.current = false;
  }, []);
  return (
    <Stage
      title={sentence(name)}
      lead={paper ? `${summary.replace(/\.$/, "")} (${paper}).` : summary}
      act="Run"
      ready={ready}
      running={running}
      onStart={() => void start()}
      controls={
        <>
          <Choice
            label="Technique"
            value={name}
            options={all.map((one) => [one.name, sentence(one.name)] as const)}
            onChange={(next) => {
              chosenHere.current = true;
              location.hash = link(id, "technique", next);
            }}
          />
          {slots.map((slot) => (
            <PictureField
              key={slot.image.name}
              slot={slot}
              photos={photos[slot.image.name] ?? []}
              onChange={(next) => setPhotos({ ...photos, [slot.image.name]: next })}
            />
          ))}
          {parameters.slice(0, first).map(field)}
          <More open={more.some((parameter) => troubles[parameter.name])}>
            {more.map(field)}
            <Seed value={seed} onChange={setSeed} />
          </More>
        </>
      }
    >
      <Banner failure={toldAtField ? undefined : job.failure} retry={() => void start()} />
      <Progress job={job} onStop={job.stop} />
      {job.result ? (
        <ResultView name={name} result={job.result} />
      ) : (
        <>
          {job.previews.length > 0 && <Previews pictures={job.previews} />}
          {job.losses.size > 0 && (
            <section class="plots" aria-label="Curves as they stand">
              {[...job.losses].map(([loss, values]) => (
                <Plot key={loss} title={loss} values={values} positions={[]} />
              ))}
            </section>
          )}
          {job.state === "idle" && !technique.doc && <Empty title={ready ? "Ready" : "A picture is missing"} />}
        </>
      )}
      <About technique={technique} open={job.state === "idle" || job.state === "failed"} />
    </Stage>
  );
}

/** What the server says of parameters, by their names. */
function troublesOf(fields: ReadonlyMap<string, string> | undefined, parameters: readonly Parameter[]): Record<string, string> {
  const told: Record<string, string> = {};
  for (const [path, words] of fields ?? []) {
    const name = /^parameters\.([^.[]+)/.exec(path)?.[1];
    if (name && parameters.some((parameter) => parameter.name === name)) told[name] = words;
  }
  return told;
}

/** The first field that something is wrong with is gone to, also from the result below it on a phone. */
function useFocus(troubles: Readonly<Record<string, string>>) {
  const before = useRef(troubles);
  useEffect(() => {
    const isNew = Object.keys(troubles).some((name) => troubles[name] && !before.current[name]);
    before.current = troubles;
    if (!isNew) return;
    const field = document.querySelector<HTMLElement>(".controls [aria-invalid='true']");
    field?.focus();
    // What is wrong is told below it.
    field?.closest(".field")?.scrollIntoView({ block: "nearest" });
  }, [troubles]);
}

interface PictureFieldProps {
  slot: Slot;
  photos: readonly Photo[];
  onChange: (photos: readonly Photo[]) => void;
}

function PictureField({ slot: { image, shared }, photos, onChange }: PictureFieldProps) {
  const label = `${sentence(image.name)}${image.required ? "" : ", if you like"}`;
  if (shared) return <PhotoDrop label={label} hint={image.doc} />;
  return <PhotosDrop label={label} hint={image.doc} many={image.many} photos={photos} onChange={onChange} />;
}

function Previews({ pictures }: { pictures: ReturnType<typeof useJob>["previews"] }) {
  return (
    <ol class={`results ${pictures.length === 1 ? "single" : ""}`} aria-label="Pictures as they stand">
      {pictures.map((picture, index) => (
        <li key={index}>
          <Picture image={picture} alt={`Picture ${index + 1} of ${pictures.length} as it stands`} crisp={picture.width < 96} />
        </li>
      ))}
    </ol>
  );
}
