// What went wrong, in the server's own words.

import { BinaryReader } from "@bufbuild/protobuf/wire";
import { Code, ConnectError } from "@connectrpc/connect";

import { refused } from "./access";

export interface Failure {
  title: string;
  words: string;
  /** The fields of the request that are at fault, by their paths, with what was expected. */
  fields?: ReadonlyMap<string, string>;
}

const TITLES: Partial<Record<Code, string>> = {
  [Code.InvalidArgument]: "The server can't take this",
  [Code.NotFound]: "Not found",
  [Code.AlreadyExists]: "That name is taken",
  [Code.FailedPrecondition]: "Not possible as things stand",
  [Code.ResourceExhausted]: "More than the server allows",
  [Code.Unimplemented]: "This server can't do that",
  [Code.DeadlineExceeded]: "It took too long",
  [Code.Unavailable]: "The server does not answer",
  [Code.Unauthenticated]: "The server does not know you",
  [Code.PermissionDenied]: "Not allowed",
};

export function isStop(error: unknown): boolean {
  return ConnectError.from(error).code === Code.Canceled;
}

export function toFailure(error: unknown): Failure {
  const told = ConnectError.from(error);
  if (told.code === Code.Unauthenticated) refused.set(told.rawMessage);
  // A browser tells no more than this of a server that is gone.
  const gone = told.code === Code.Unknown && /fetch|network/i.test(told.rawMessage);
  return {
    title: gone ? "The server does not answer" : (TITLES[told.code] ?? "Something went wrong"),
    words: gone ? "Is it still running? Nothing was lost here; try again when it is back." : told.rawMessage,
    fields: fieldsOf(told),
  };
}

/** What google.rpc.BadRequest tells: its field 1 holds violations, each a path (1) and a sentence (2). */
function fieldsOf(told: ConnectError): Map<string, string> {
  const found = new Map<string, string>();
  for (const detail of told.details) {
    if (!("type" in detail) || detail.type !== "google.rpc.BadRequest") continue;
    for (const violation of fields(detail.value, 1)) {
      const [path, words] = [1, 2].map((number) => new TextDecoder().decode(fields(violation, number)[0]));
      if (path) found.set(path, words ?? "");
    }
  }
  return found;
}

/** The contents of a message's fields of a number; they have lengths, as texts and messages do. */
function fields(message: Uint8Array, wanted: number): Uint8Array[] {
  const found = [];
  const reader = new BinaryReader(message);
  while (reader.pos < reader.len) {
    const [number, wire] = reader.tag();
    if (number === wanted) found.push(reader.bytes());
    else reader.skip(wire, number);
  }
  return found;
}
