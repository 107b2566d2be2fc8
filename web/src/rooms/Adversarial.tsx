import { useState } from "preact/hooks";

import type { RoomProps } from "../App";
import { gradients } from "../api/clients";
import { useJob } from "../api/job";
import { AttackMethod, type Adversarial as Attacked, type Adversarials, Norm } from "../generated/endoscope/v1/gradient_pb";
import { labelOf } from "../models";
import { Banner, Empty } from "../parts/Banner";
import { Bars } from "../parts/Bars";
import { Choice, More, Seed, Segments, Slider } from "../parts/fields";
import { Line } from "../parts/Line";
import { ClassPicker } from "../parts/pickers";
import { asImage, photo } from "../parts/photo";
import { PhotoDrop } from "../parts/PhotoDrop";
import { Download, Picture } from "../parts/Picture";
import { Progress } from "../parts/Progress";
import { Stage } from "../parts/Stage";
import { precise, short } from "../words";

const METHODS = [
  [AttackMethod.PGD, "PGD: projected gradient descent"],
  [AttackMethod.FGSM, "FGSM: one step along the sign"],
  [AttackMethod.IFGSM, "I-FGSM: several such steps"],
  [AttackMethod.MIFGSM, "MI-FGSM: with momentum"],
  [AttackMethod.APGD_CE, "Auto-PGD on the cross entropy"],
  [AttackMethod.APGD_DLR, "Auto-PGD on the logit ratio"],
  [AttackMethod.SQUARE, "Square: without gradients"],
  [AttackMethod.DEEPFOOL, "DeepFool: the nearest boundary"],
  [AttackMethod.CARLINI_WAGNER, "Carlini-Wagner: the smallest change"],
  [AttackMethod.FAB, "FAB: fast adaptive boundary"],
] as const;

const SMALLEST: readonly AttackMethod[] = [AttackMethod.DEEPFOOL, AttackMethod.CARLINI_WAGNER, AttackMethod.FAB];
const ONLY_L2: readonly AttackMethod[] = [AttackMethod.DEEPFOOL, AttackMethod.CARLINI_WAGNER];

export function Adversarial({ id, model }: RoomProps) {
  const taken = photo.use();
  const job = useJob<Adversarials>();
  const [method, setMethod] = useState<AttackMethod>(AttackMethod.PGD);
  const [norm, setNorm] = useState<Norm>(Norm.LINF);
  const [levels, setLevels] = useState(4);
  const [distance, setDistance] = useState(0.5);
  const [target, setTarget] = useState<number>();
  const [seed, setSeed] = useState(0);
  const bounded = !SMALLEST.includes(method);
  const used = ONLY_L2.includes(method) ? Norm.L2 : norm;

  async function start() {
    const image = await asImage(taken!, 1024);
    await job.start((signal) =>
      gradients.createAdversarial(
        {
          model: `models/${id}`,
          images: [image],
          method,
          norm: used,
          ...(bounded ? { epsilon: used === Norm.L2 ? distance : levels / 255 } : {}),
          targets: target === undefined ? [] : [target],
          seed: BigInt(seed),
          options: { previewEvery: 0 },
        },
        { signal },
      ),
    );
  }

  const found = job.result?.adversarials[0];
  return (
    <Stage
      title="Adversarial"
      lead="A photo is changed so little that nobody sees it, and the network sees something else. Judged on the file that you can save."
      act="Attack"
      ready={taken !== undefined}
      running={job.state === "running"}
      onStart={() => void start()}
      controls={
        <>
          <PhotoDrop />
          <Choice label="Attack" value={method} options={METHODS} onChange={setMethod} />
          {!ONLY_L2.includes(method) && (
            <Segments
              label="Measured by"
              value={norm}
              options={[
                [Norm.LINF, "largest change"],
                [Norm.L2, "distance"],
              ]}
              onChange={setNorm}
            />
          )}
          {bounded && used === Norm.LINF && (
            <Slider label="At most" value={levels} min={1} max={32} show={(value) => `${value} / 255`} onChange={setLevels} />
          )}
          {bounded && used === Norm.L2 && (
            <Slider label="At most" value={distance} min={0.1} max={8} step={0.1} show={(value) => value.toFixed(1)} onChange={setDistance} />
          )}
          <ClassPicker model={model} value={target} onChange={setTarget} label="To be seen as" optional="anything else" />
          <More>
            <Seed value={seed} onChange={setSeed} />
          </More>
        </>
      }
    >
      <Banner failure={job.failure} retry={() => void start()} />
      <Progress job={job} onStop={job.stop} />
      {job.state === "running" && <Line name="margin" values={job.losses.get("margin[0]") ?? []} />}
      {found ? (
        <Outcome found={found} label={(index) => short(labelOf(model, index))} />
      ) : (
        job.state !== "running" && !job.failure && (
          <Empty title={taken ? "Ready" : "A photo to attack"}>
            {taken ? "Original, adversarial and their difference will stand here side by side." : "Drop one into the box."}
          </Empty>
        )
      )}
    </Stage>
  );
}

function Outcome({ found, label }: { found: Attacked; label: (index: number) => string }) {
  const before = found.originalClassification?.top ?? [];
  const after = found.classification?.top ?? [];
  return (
    <>
      <p class="verdict">
        {found.success ? (
          <>
            <strong>{label(found.trueClass)}</strong> became <strong>{label(after[0]?.classIndex ?? 0)}</strong>
          </>
        ) : (
          <>
            It held: still <strong>{label(after[0]?.classIndex ?? 0)}</strong>
          </>
        )}
        <span class="muted small numbers">
          {" "}
          largest change {Math.round(found.linf * 255)} / 255, distance {precise(found.l2)}, {Number(found.l0).toLocaleString("en")} pixels
        </span>
      </p>
      <div class="triptych">
        <figure>
          <Picture image={found.original} alt="The original" />
          <figcaption class="small muted">original</figcaption>
          <Bars title="Seen in the original" scores={before} marked={found.trueClass} />
        </figure>
        <figure>
          <Picture image={found.image} alt="The adversarial picture" />
          <figcaption class="small muted">adversarial</figcaption>
          <Bars title="Seen in the adversarial" scores={after} marked={after[0]?.classIndex} />
        </figure>
        <figure>
          <Picture image={found.difference} alt={`The difference, ${precise(found.magnification)} times`} />
          <figcaption class="small muted">difference, × {precise(found.magnification)}</figcaption>
        </figure>
      </div>
      <Download image={found.image} name="adversarial" />
    </>
  );
}
