import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { audits } from "../api/clients";
import { useJob } from "../api/job";
import { CHAPTERS } from "../audit/summaries";
import { Chapters } from "../audit/Chapters";
import { end, isThere, kept, keeping, takenUp } from "../audit/kept";
import { ReportView } from "../audit/ReportView";
import { useDataset } from "../datasets";
import { AuditChapter, type AuditReport } from "../generated/endoscope/v1/audit_pb";
import { Banner, Empty } from "../parts/Banner";
import { More, Seed, Slider } from "../parts/fields";
import { DatasetPicker } from "../parts/pickers";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";
import { plural } from "../words";

const EVERY: readonly AuditChapter[] = CHAPTERS.map(({ chapter }) => chapter);

export function AuditRoom({ id }: RoomProps) {
  const job = useJob<AuditReport>();
  const dataset = useDataset();
  const [chapters, setChapters] = useState(EVERY);
  const [items, setItems] = useState(100);
  const [attacked, setAttacked] = useState(16);
  const [attackSteps, setAttackSteps] = useState(10);
  const [classes, setClasses] = useState(8);
  const [layers, setLayers] = useState(6);
  const [inversionSteps, setInversionSteps] = useState(1200);
  const [training, setTraining] = useState("");
  const [seed, setSeed] = useState(0);
  const [asked, setAsked] = useState<readonly AuditChapter[]>([]);
  const untouched = useRef(true);

  useEffect(() => {
    void isThere(id).then((there) => {
      if (there && untouched.current) void job.start((signal) => takenUp(id, signal));
    });
    return () => {
      untouched.current = false;
    };
  }, []);

  function start() {
    untouched.current = false;
    setAsked(chapters);
    const request = {
      model: `models/${id}`,
      dataset: `datasets/${dataset.id}`,
      chapters: [...chapters],
      maxItems: items,
      maxAttackedItems: attacked,
      attackSteps,
      maxClasses: classes,
      maxLayers: layers,
      inversionSteps,
      trainingDataset: training && `datasets/${training}`,
      seed: BigInt(seed),
      options: { previewEvery: 0, detached: true },
    };
    return job.start((signal) => keeping(id, audits.runAudit(request, { signal })));
  }

  function stop() {
    if (kept(id)) void end(id).catch(job.stop);
    else job.stop();
  }

  const toggle = (chapter: AuditChapter) =>
    setChapters((now) => EVERY.filter((one) => now.includes(one) !== (one === chapter)));
  const wants = (...some: AuditChapter[]) => some.some((chapter) => chapters.includes(chapter));
  return (
    <Stage
      title="Audit"
      lead="One look at the network from all sides, over the pictures of a dataset: how often it is right, how little fools it, what it gives away, what in it is dead. It ends in a report that one can keep."
      act="Audit"
      ready={dataset.id !== "" && chapters.length > 0}
      running={job.state === "running"}
      onStart={() => void start()}
      controls={
        <>
          <DatasetPicker datasets={dataset.list} value={dataset.id} onChange={dataset.choose} />
          <fieldset class="field">
            <legend>{plural(chapters.length, "chapter")}</legend>
            <div class="checks">
              {CHAPTERS.map(({ chapter, title }) => (
                <label key={chapter} class="check small">
                  <input type="checkbox" checked={chapters.includes(chapter)} onChange={() => toggle(chapter)} />
                  <span>{title}</span>
                </label>
              ))}
            </div>
          </fieldset>
          <Slider label="Pictures, at most" value={items} min={10} max={1000} step={10} onChange={setItems} />
          <More>
            {wants(AuditChapter.ROBUSTNESS) && (
              <>
                <Slider label="Pictures attacked, at most" value={attacked} min={1} max={100} onChange={setAttacked} />
                <Slider label="Steps of each attack" value={attackSteps} min={1} max={100} onChange={setAttackSteps} />
              </>
            )}
            {wants(AuditChapter.FOOLING, AuditChapter.FEATURES) && (
              <Slider label="Classes fooled and drawn, at most" value={classes} min={1} max={64} onChange={setClasses} />
            )}
            {wants(AuditChapter.PRIVACY) && (
              <>
                <Slider label="Layers inverted, at most" value={layers} min={1} max={24} onChange={setLayers} />
                <Slider label="Steps of each inversion" value={inversionSteps} min={20} max={2400} step={20} onChange={setInversionSteps} />
              </>
            )}
            {wants(AuditChapter.ERRORS) && (
              <DatasetPicker
                datasets={dataset.list}
                value={training}
                onChange={setTraining}
                label="Neighbours of errors among"
                standard="the same pictures"
              />
            )}
            <Seed value={seed} onChange={setSeed} />
          </More>
        </>
      }
    >
      <Banner failure={job.failure} retry={() => void start()} />
      <Progress job={job} onStop={stop} />
      {job.result ? (
        <Finished id={id} report={job.result} />
      ) : job.state === "idle" ? (
        <Empty title="Not audited yet">
          Folders of the dataset that are called like classes of the network are its labels; without them what the network
          saw at first counts as right.
        </Empty>
      ) : asked.length === 0 ? (
        job.state === "running" && <Empty title="Going on">It went on while this room was left. Its chapters come with the report.</Empty>
      ) : (
        <Chapters asked={asked} findings={job.findings} current={job.state === "running" ? (job.step?.stage.split(":")[0] ?? "") : ""} />
      )}
    </Stage>
  );
}

interface Verdict {
  chapter: string;
  level: "good" | "fair" | "poor" | "none";
  text: string;
}

const LEVELS = [
  ["good", "good"],
  ["fair", "fair"],
  ["poor", "poor"],
] as const;

function Finished({ id, report }: { id: string; report: AuditReport }) {
  const html = useMemo(() => new TextDecoder().decode(report.html), [report]);
  const verdicts = useMemo(() => (JSON.parse(new TextDecoder().decode(report.json)) as { verdict: Verdict[] }).verdict, [report]);
  return (
    <>
      <div class="audit-head">
        <p class="verdict" role="status">
          {LEVELS.map(([level, words]) => (
            <span key={level} class={`tally ${level}`}>
              <strong class="numbers">{verdicts.filter((one) => one.level === level).length}</strong> {words}
            </span>
          ))}
        </p>
        <Save content={report.html} type="text/html" name={`${id}-audit.html`} words="Save the report" />
        <Save content={report.json} type="application/json" name={`${id}-audit.json`} words="Save its numbers (JSON)" />
      </div>
      <ReportView html={html} />
    </>
  );
}

function Save({ content, type, name, words }: { content: Uint8Array; type: string; name: string; words: string }) {
  const [url, setUrl] = useState<string>();
  useEffect(() => {
    const next = URL.createObjectURL(new Blob([content as Uint8Array<ArrayBuffer>], { type }));
    setUrl(next);
    return () => URL.revokeObjectURL(next);
  }, [content, type]);
  return (
    <a class="button quiet" href={url} download={name}>
      {words}
    </a>
  );
}
