// What went wrong, in the server's own words.

import { Code, ConnectError } from "@connectrpc/connect";

import { refused } from "./access";

export interface Failure {
  title: string;
  words: string;
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
  };
}
