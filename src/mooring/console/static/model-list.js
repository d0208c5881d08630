import { element } from "./dom.js";
import { View } from "./store.js";

export class ModelList extends View {
  build() {
    this.append(element("h1", {}, "Models"));
  }
}

customElements.define("mooring-models", ModelList);
