// The last audit of each network: it goes on when its room is left, and is taken up again when one comes back. It is
// known for as long as the tab is open.

import { Code, ConnectError } from "@connectrpc/connect";

import { jobs } from "../api/clients";
import type { Event } from "../api/job";
import type { AuditReport } from "../generated/endoscope/v1/audit_pb";
import { recall, retain } from "../storage";

const key = (model: string) => `endoscope-audit-${model}`;

/** The job's name; empty if there is none. */
export const kept = (model: string) => recall("sessionStorage", key(model));

const keep = (model: string, job: string) => retain("sessionStorage", key(model), job);

/** The events of a new audit, whose job is kept as soon as it has a name. */
export async function* keeping(model: string, events: AsyncIterable<Event<AuditReport>>): AsyncIterable<Event<AuditReport>> {
  keep(model, "");
  for await (const one of events) {
    if (one.event.case === "header") keep(model, (one.event.value as { job: string }).job);
    yield one;
  }
}

/** Whether the server still has the job that was kept; one that it does not know is forgotten. */
export async function isThere(model: string): Promise<boolean> {
  const name = kept(model);
  if (!name) return false;
  try {
    await jobs.getJob({ name });
    return true;
  } catch (error) {
    if (ConnectError.from(error).code === Code.NotFound) keep(model, "");
    return false;
  }
}

/** The events of the audit that was kept, from its beginning; its findings come with the report alone. */
export async function* takenUp(model: string, signal: AbortSignal): AsyncIterable<Event<AuditReport>> {
  for await (const { event } of jobs.watchJob({ name: kept(model) }, { signal })) {
    if (event.case !== "result") yield { event };
    else if (event.value.result.case === "auditReport") yield { event: { case: "result", value: event.value.result.value } };
  }
}

/** Ends the job; its stream then ends, too. */
export async function end(model: string): Promise<void> {
  await jobs.cancelJob({ name: kept(model) });
  keep(model, "");
}
