// The pictures that a technique takes: the photo of all rooms for the first one that it needs, photos of the
// room for the others.

import type { TechniqueImage } from "../generated/endoscope/v1/technique_pb";
import { asImage, type Photo } from "../parts/photo";

/** Enough for any model's input; larger is made smaller before it is sent. */
const SIDE = 1024;

export interface Slot {
  image: TechniqueImage;
  /** Whether it is the photo of all rooms. */
  shared: boolean;
}

export function slotsOf(images: readonly TechniqueImage[]): Slot[] {
  const first = images.find((image) => image.required && !image.many);
  return images.map((image) => ({ image, shared: image === first }));
}

/** What is given for a slot. */
export function givenFor({ image, shared }: Slot, photo: Photo | undefined, photos: Readonly<Record<string, readonly Photo[]>>) {
  return shared ? (photo ? [photo] : []) : (photos[image.name] ?? []);
}

export async function asNamedImages(slots: readonly Slot[], given: (slot: Slot) => readonly Photo[]) {
  const all = slots.flatMap((slot) => given(slot).map((photo) => ({ slot, photo })));
  return Promise.all(
    all.map(async ({ slot: { image }, photo }) => ({
      name: image.name,
      image: await (image.ownSize ? asImage(photo) : asImage(photo, SIDE)),
    })),
  );
}
