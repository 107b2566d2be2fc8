import { render } from "preact";

import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/shell.css";
import "./styles/parts.css";
import "./styles/rooms.css";
import "./styles/techniques.css";
import { App } from "./App";

render(<App />, document.getElementById("root")!);
