import { element } from "./dom.js";
import { View } from "./store.js";

export class SettingsTable extends View {
  build() {
    this.append(element("h1", {}, "Settings"));
  }
}

customElements.define("mooring-settings", SettingsTable);
