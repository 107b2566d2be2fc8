import type { Job } from "../api/job";

/** How far a job is, and the button that stops it. */
export function Progress({ job, onStop }: { job: Job<unknown>; onStop: () => void }) {
  if (job.state !== "running") {
    return job.state === "stopped" ? (
      <p class="small muted" role="status">
        Stopped{job.step ? ` at step ${job.step.index}` : ""}.
      </p>
    ) : null;
  }
  const { done, total, stage } = standing(job);
  return (
    <div class="progress">
      <div class="progress-words small">
        <span role="status">{stage}</span>
        <span class="numbers muted">{total ? `${done} / ${total}` : ""}</span>
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
