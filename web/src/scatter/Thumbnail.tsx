import { useEffect, useState } from "preact/hooks";

import { datasets } from "../api/clients";
import type { Image } from "../generated/endoscope/v1/image_pb";
import { Picture } from "../parts/Picture";

const kept = new Map<string, Image | undefined>();
const MOST = 2000;

/** A small picture of an item of a dataset, asked for when one stays on it. */
export function Thumbnail({ dataset, item, alt }: { dataset: string; item: number; alt: string }) {
  const name = `${dataset}/${item}`;
  const [image, setImage] = useState(kept.get(name));
  useEffect(() => {
    if (kept.has(name)) return setImage(kept.get(name));
    const controller = new AbortController();
    const timer = setTimeout(() => {
      datasets
        .listItems({ dataset, items: [BigInt(item)], thumbnailSize: 112 }, { signal: controller.signal })
        .then(({ items }) => {
          if (kept.size >= MOST) kept.clear();
          kept.set(name, items[0]?.thumbnail);
          setImage(items[0]?.thumbnail);
        })
        // A tip without its picture still has its words.
        .catch(() => undefined);
    }, 60);
    return () => {
      clearTimeout(timer);
      controller.abort();
    };
  }, [name]);
  return <Picture class="thumbnail" image={image} alt={alt} />;
}
