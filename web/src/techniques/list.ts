// The techniques of one file that this server has: they can't change while it runs, so they are fetched once.

import { techniques } from "../api/clients";
import type { Technique } from "../generated/endoscope/v1/technique_pb";
import { type Loading, useFetched } from "../models";

let fetched: Promise<Technique[]> | undefined;

async function fetchAll(): Promise<Technique[]> {
  const found: Technique[] = [];
  let pageToken = "";
  do {
    const page = await techniques.listTechniques({ pageToken });
    found.push(...page.techniques);
    pageToken = page.nextPageToken;
  } while (pageToken);
  return found;
}

export function useTechniques(): Loading<Technique[]> {
  return useFetched(() => {
    fetched ??= fetchAll();
    fetched.catch(() => (fetched = undefined));
    return fetched;
  }, []);
}
