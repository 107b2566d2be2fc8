// Datasets as the rooms need them.

import { useEffect, useState } from "preact/hooks";

import { datasets } from "./api/clients";
import { everyPage } from "./api/pages";
import type { Dataset } from "./generated/endoscope/v1/dataset_pb";
import { idOf, type Loading, useFetched } from "./models";
import { store } from "./store";

/** Counts the changes made here, so that lists are fetched anew. */
export const changes = store(0);

const chosen = store("");

export function useDatasets(): Loading<Dataset[]> {
  const version = changes.use();
  return useFetched(() => everyPage(datasets.listDatasets, (page) => page.datasets), [version]);
}

/** The dataset that is looked at: one for all rooms. */
export function useDataset(): { list: Loading<Dataset[]>; id: string; choose: (id: string) => void } {
  const list = useDatasets();
  const wanted = chosen.use();
  const [id, setId] = useState(wanted);
  useEffect(() => {
    const ids = (list.value ?? []).map((dataset) => idOf(dataset.name));
    setId(ids.includes(wanted) ? wanted : (ids[0] ?? ""));
  }, [list.value, wanted]);
  return { list, id, choose: chosen.set };
}
