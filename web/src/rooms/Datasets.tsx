export function Datasets(_: object) {
  return <p class="muted">Not there yet.</p>;
}
