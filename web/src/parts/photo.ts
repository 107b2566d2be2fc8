// The photo that is looked at: one for all rooms, brought to a reasonable size in the browser.

import { create } from "@bufbuild/protobuf";

import { type Image, ImageSchema } from "../generated/endoscope/v1/image_pb";
import { store } from "../store";

export interface Photo {
  name: string;
  blob: Blob;
  url: string;
  width: number;
  height: number;
}

export const photo = store<Photo | undefined>(undefined);

const LARGEST = 4096;

/** A file as a photo; its URL is the caller's to revoke. */
export async function readPhoto(file: Blob, name: string): Promise<Photo> {
  const bitmap = await createImageBitmap(file).catch(() => {
    throw new Error(`“${name}” is no picture that this browser can read; PNG, JPEG and WebP work.`);
  });
  const { width, height } = bitmap;
  bitmap.close();
  if (width > LARGEST * 4 || height > LARGEST * 4) throw new Error(`“${name}” is larger than ${LARGEST * 4} pixels.`);
  return { name, blob: file, url: URL.createObjectURL(file), width, height };
}

export function setPhoto(taken: Photo): void {
  const before = photo.get();
  photo.set(taken);
  if (before) URL.revokeObjectURL(before.url);
}

/** The photo as a message, its longer side no more than `side` pixels. */
export async function asImage(taken: Photo, side = LARGEST): Promise<Image> {
  const blob = Math.max(taken.width, taken.height) <= side ? taken.blob : await shrink(taken, side);
  const encoded = new Uint8Array(await blob.arrayBuffer());
  return create(ImageSchema, { source: { case: "encoded", value: encoded } });
}

async function shrink(taken: Photo, side: number): Promise<Blob> {
  const factor = side / Math.max(taken.width, taken.height);
  const width = Math.max(1, Math.round(taken.width * factor));
  const height = Math.max(1, Math.round(taken.height * factor));
  const bitmap = await createImageBitmap(taken.blob, {
    resizeWidth: width,
    resizeHeight: height,
    resizeQuality: "high",
  });
  const canvas = new OffscreenCanvas(width, height);
  canvas.getContext("2d")!.drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas.convertToBlob({ type: "image/png" });
}
