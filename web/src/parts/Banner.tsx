import type { ComponentChildren } from "preact";

import type { Failure } from "../api/failure";

export function Banner({ failure, retry }: { failure: Failure | undefined; retry?: () => void }) {
  if (!failure) return null;
  return (
    <div class="banner" role="alert">
      <p>
        <strong>{failure.title}.</strong> {failure.words}
      </p>
      {retry && (
        <button type="button" class="button quiet" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <p class="empty-title">{title}</p>
      {children && <div class="muted">{children}</div>}
    </div>
  );
}

export function Waiting({ what }: { what: string }) {
  return (
    <p class="waiting muted" role="status">
      <span class="pulse" aria-hidden="true" /> {what}
    </p>
  );
}
