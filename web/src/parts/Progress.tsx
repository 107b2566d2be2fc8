import type { Job } from "../api/job";
import { duration, plural } from "../words";

interface Props {
  job: Job<unknown>;
  onStop: () => void;
  /** Of several jobs, which one this is. */
  part?: string;
}

/** How far a job is, with the button that stops it; and how it ended. */
export function Progress({ job, onStop, part }: Props) {
  if (job.state === "idle" || job.state === "failed") return null;
  if (job.state !== "running") {
    return (
      <p class="progress over small muted numbers" role="status">
        {ended(job)}
      </p>
    );
  }
  const { done, total, stage } = standing(job);
  const left = job.step?.losses["seconds_left"];
  return (
    <div class="progress">
      <div class="progress-words small">
        <span role="status">{part ? `${stage}, ${part}` : stage}</span>
        <span class="numbers muted">
          {total ? `${done} / ${total}` : ""}
          {left ? `  ·  ${duration(left)} left` : ""}
        </span>
      </div>
      <progress aria-label="Progress" max={total || 1} value={total ? done : undefined} />
      <button type="button" class="button stop" onClick={onStop}>
        Stop
      </button>
    </div>
  );
}

function standing(job: Job<unknown>): { done: number; total: number; stage: string } {
  const { step, header } = job;
  if (!step) return { done: 0, total: Number(header?.totalSteps ?? 0), stage: header ? "Beginning" : "Asking the server" };
  const images = step.losses["images_total"];
  if (images) return { done: step.losses["images_done"] ?? 0, total: images, stage: "Looking at the pictures" };
  const stage = step.stage ? step.stage[0]!.toUpperCase() + step.stage.slice(1) : "Step";
  return { done: Number(step.index), total: Number(step.total), stage };
}

function ended(job: Job<unknown>): string {
  const { step, state } = job;
  const elapsed = step?.elapsed ? Number(step.elapsed.seconds) + step.elapsed.nanos / 1e9 : 0;
  const took = elapsed ? ` in ${elapsed < 10 ? elapsed.toFixed(1) : Math.round(elapsed)} s` : "";
  if (state === "stopped") return step ? `Stopped after ${plural(Number(step.index), "step")}` : "Stopped";
  const images = step?.losses["images_total"];
  if (images) return `${plural(images, "picture")}${took}`;
  return step && Number(step.index) ? `${plural(Number(step.index), "step")}${took}` : `Done${took}`;
}
