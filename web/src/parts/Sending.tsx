interface SendingProps {
  class?: string;
  /** Of what is sent, in [0, 1]; at 1 the server is still at work. */
  share: number;
  words: string;
  /** Beside the words. */
  numbers: string;
  onStop: () => void;
}

/** How far files have gone to the server, with the button that stops it. */
export function Sending({ class: look = "", share, words, numbers, onStop }: SendingProps) {
  return (
    <div class={`progress ${look}`.trim()}>
      <div class="progress-words small">
        <span role="status">{words}</span>
        <span class="numbers muted">{numbers}</span>
      </div>
      <progress aria-label="Sent" value={share < 1 ? share : undefined} />
      <button type="button" class="button stop" onClick={onStop}>
        Stop
      </button>
    </div>
  );
}
