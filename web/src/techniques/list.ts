// The techniques of one file that this server has: they can't change while it runs, so they are fetched once.

import { techniques } from "../api/clients";
import { everyPage } from "../api/pages";
import type { Technique } from "../generated/endoscope/v1/technique_pb";
import { type Loading, useFetched } from "../models";

let fetched: Promise<Technique[]> | undefined;

export function useTechniques(): Loading<Technique[]> {
  return useFetched(() => {
    fetched ??= everyPage(techniques.listTechniques, (page) => page.techniques);
    fetched.catch(() => (fetched = undefined));
    return fetched;
  }, []);
}
