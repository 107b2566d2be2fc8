// Long work as a room sees it: header, steps, one result, and a way to stop it.

import { useEffect, useRef, useState } from "preact/hooks";

import type { AuditFinding } from "../generated/endoscope/v1/audit_pb";
import type { JobHeader, JobStep } from "../generated/endoscope/v1/job_pb";
import type { Image } from "../generated/endoscope/v1/image_pb";
import { type Failure, isStop, toFailure } from "./failure";

export type Event<R> = {
  event:
    | { case: "header"; value: JobHeader }
    | { case: "step"; value: JobStep }
    | { case: "result"; value: R }
    | { case: string; value: unknown }
    | { case: undefined; value?: undefined };
};

export type State = "idle" | "running" | "done" | "failed" | "stopped";

export interface Job<R> {
  state: State;
  header?: JobHeader;
  step?: JobStep;
  /** The newest pictures. */
  previews: Image[];
  /** Each loss over the steps. */
  losses: Map<string, number[]>;
  /** The chapters of an audit that are done. */
  findings: AuditFinding[];
  result?: R;
  failure?: Failure;
}

export interface Handle<R> extends Job<R> {
  /** Starts it, and tells how it ended. */
  start: (open: (signal: AbortSignal) => AsyncIterable<Event<R>>) => Promise<Job<R>>;
  stop: () => void;
  clear: () => void;
}

const idle = <R>(): Job<R> => ({ state: "idle", previews: [], losses: new Map(), findings: [] });

/** One job at a time; it is stopped when the room is left. */
export function useJob<R>(): Handle<R> {
  const [job, setJob] = useState<Job<R>>(idle);
  const running = useRef<AbortController>(undefined);
  useEffect(() => () => running.current?.abort(), []);

  async function start(open: (signal: AbortSignal) => AsyncIterable<Event<R>>): Promise<Job<R>> {
    running.current?.abort();
    const controller = new AbortController();
    running.current = controller;
    const next: Job<R> = { ...idle<R>(), state: "running" };
    let frame = 0;
    const show = () => {
      frame = 0;
      if (running.current === controller) setJob({ ...next });
    };
    // Steps come faster than a screen is drawn.
    const soon = () => (frame ||= requestAnimationFrame(show));
    show();
    try {
      for await (const { event } of open(controller.signal)) {
        take(next, event as { case?: string; value?: unknown });
        soon();
      }
      next.state = "done";
    } catch (error) {
      next.state = isStop(error) || controller.signal.aborted ? "stopped" : "failed";
      if (next.state === "failed") next.failure = toFailure(error);
    }
    cancelAnimationFrame(frame);
    show();
    return next;
  }

  return {
    ...job,
    start,
    stop: () => running.current?.abort(),
    clear: () => {
      running.current?.abort();
      running.current = undefined;
      setJob(idle);
    },
  };
}

function take<R>(job: Job<R>, event: { case?: string; value?: unknown }): void {
  if (event.case === "header") job.header = event.value as JobHeader;
  else if (event.case === "result") job.result = event.value as R;
  else if (event.case === "finding") job.findings = [...job.findings, event.value as AuditFinding];
  else if (event.case === "step") {
    const step = event.value as JobStep;
    job.step = step;
    if (step.previews.length) job.previews = step.previews;
    for (const [name, value] of Object.entries(step.losses)) {
      const series = job.losses.get(name) ?? [];
      series.push(value);
      job.losses.set(name, series);
    }
  }
}
