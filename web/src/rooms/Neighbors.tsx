export function Neighbors(_: object) {
  return <p class="muted">Not there yet.</p>;
}
