import { element } from "./dom.js";
import { View } from "./store.js";

export class LogTail extends View {
  build() {
    this.append(element("h1", {}, "Logs"));
  }
}

customElements.define("mooring-logs", LogTail);
