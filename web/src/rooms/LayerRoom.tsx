export function LayerRoom(_: object) {
  return <p class="muted">Not there yet.</p>;
}
