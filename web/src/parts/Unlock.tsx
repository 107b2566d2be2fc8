import { useState } from "preact/hooks";

import { refused, setToken } from "../api/access";

/** Asks for the token that the server wants to see. */
export function Unlock() {
  const why = refused.use();
  const [typed, setTyped] = useState("");
  return (
    <div class="column">
      <header class="head">
        <h1>A token, please</h1>
        <p class="lead muted">
          This server answers only those whom its operator gave a token. It is kept until you close this tab.
        </p>
      </header>
      <form
        class="unlock"
        onSubmit={(event) => {
          event.preventDefault();
          setToken(typed);
        }}
      >
        <div class="field">
          <label class="label" for="token">
            Token
          </label>
          <input
            id="token"
            class="input mono"
            type="password"
            autocomplete="current-password"
            required
            value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
          <p class="small muted" role="status">
            {why}
          </p>
        </div>
        <button class="button" type="submit">
          Enter
        </button>
      </form>
    </div>
  );
}
