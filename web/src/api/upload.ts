// Client streams from a browser. `fetch` sends no stream over HTTP/1.1, but it sends a Blob of any size from
// disk: the whole stream, enveloped as the Connect protocol wants it, is one Blob that is never in memory.

import type { DescMessage, DescMethodClientStreaming, MessageInitShape, MessageShape } from "@bufbuild/protobuf";
import { create, fromBinary, toBinary } from "@bufbuild/protobuf";
import { Code, ConnectError } from "@connectrpc/connect";
import { codeFromString } from "@connectrpc/connect/protocol-connect";

import { authorization } from "./access";

type Method<I extends DescMessage, O extends DescMessage> = DescMethodClientStreaming & { input: I; output: O };

/** A piece of a message, made of what is in memory and of what lies on disk. */
export interface Piece {
  parts: BlobPart[];
  size: number;
}

function varint(value: number): number[] {
  const bytes = [];
  for (let left = value; ; left = Math.floor(left / 128)) {
    if (left < 128) return [...bytes, left];
    bytes.push((left % 128) | 128);
  }
}

/** A field of bytes, of text, or of a message that is made of pieces. */
export function field(number: number, content: Blob | string | Piece[]): Piece {
  const inner: Piece =
    typeof content === "string"
      ? bytes(new TextEncoder().encode(content))
      : content instanceof Blob
        ? { parts: [content], size: content.size }
        : join(content);
  return join([bytes(new Uint8Array([...varint(number * 8 + 2), ...varint(inner.size)])), inner]);
}

/** A whole message as a piece. */
export function whole<I extends DescMessage>(schema: I, message: MessageInitShape<I>): Piece {
  return bytes(toBinary(schema, create(schema, message)));
}

function bytes(content: Uint8Array): Piece {
  return { parts: [content as Uint8Array<ArrayBuffer>], size: content.length };
}

function join(pieces: readonly Piece[]): Piece {
  return {
    parts: pieces.flatMap((piece) => piece.parts),
    size: pieces.reduce((sum, piece) => sum + piece.size, 0),
  };
}

function envelope(message: Piece): BlobPart[] {
  const prefix = new Uint8Array(5);
  new DataView(prefix.buffer).setUint32(1, message.size);
  return [prefix, ...message.parts];
}

/** Sends a client stream, telling the share that is sent; the answer comes when all of it is there. */
export async function send<I extends DescMessage, O extends DescMessage>(
  method: Method<I, O>,
  messages: readonly Piece[],
  told: (share: number) => void,
  signal: AbortSignal,
): Promise<MessageShape<O>> {
  const answer = await post(`/${method.parent.typeName}/${method.name}`, new Blob(messages.flatMap(envelope)), told, signal);
  let result: MessageShape<O> | undefined;
  for (let at = 0; at + 5 <= answer.length; ) {
    const flags = answer[at]!;
    const size = new DataView(answer.buffer, answer.byteOffset + at + 1).getUint32(0);
    const body = answer.subarray(at + 5, at + 5 + size);
    if (flags & 2) {
      const { error } = JSON.parse(new TextDecoder().decode(body)) as { error?: { code: string; message?: string } };
      if (error) throw new ConnectError(error.message ?? "", codeFromString(error.code) ?? Code.Unknown);
    } else {
      result = fromBinary(method.output, body);
    }
    at += 5 + size;
  }
  if (!result) throw new ConnectError("the answer was cut off", Code.DataLoss);
  return result;
}

/** XMLHttpRequest, since fetch does not tell how much of a body is sent. */
function post(path: string, body: Blob, told: (share: number) => void, signal: AbortSignal): Promise<Uint8Array> {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open("POST", path);
    request.responseType = "arraybuffer";
    request.setRequestHeader("Content-Type", "application/connect+proto");
    request.setRequestHeader("Connect-Protocol-Version", "1");
    const shown = authorization();
    if (shown) request.setRequestHeader("Authorization", shown);
    request.upload.onprogress = (event) => told(event.loaded / event.total);
    request.onload = () =>
      request.status === 200
        ? resolve(new Uint8Array(request.response as ArrayBuffer))
        : reject(new ConnectError(`the server answered ${request.status}`, Code.Unknown));
    request.onerror = () => reject(new ConnectError("failed to fetch", Code.Unknown));
    request.onabort = () => reject(new ConnectError("stopped", Code.Canceled));
    signal.addEventListener("abort", () => request.abort(), { once: true });
    request.send(body);
  });
}
