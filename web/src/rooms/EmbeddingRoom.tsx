export function EmbeddingRoom(_: object) {
  return <p class="muted">Not there yet.</p>;
}
