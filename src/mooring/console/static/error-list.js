// The last errors, newest first, each with the traceback of its worker one click away.

import { element, modelHref, setText } from "./dom.js";
import { clock, dateTime } from "./format.js";
import { listing } from "./parts.js";
import { store, View } from "./store.js";

/** A list of errors whose items stay, open or closed, as others come and go. */
export class ErrorItems {
  #items = new Map();

  constructor({ withModel }) {
    this.withModel = withModel;
    this.node = element("ul", { class: "errors" });
  }

  /** Show these ERRORs, in this order. */
  draw(errors) {
    const wanted = new Set(errors.map((error) => error.id));
    for (const [id, item] of this.#items) {
      if (wanted.has(id)) continue;
      item.node.remove();
      this.#items.delete(id);
    }
    let place = this.node.firstElementChild;
    for (const error of errors) {
      let item = this.#items.get(error.id);
      if (!item) this.#items.set(error.id, (item = this.#build(error)));
      setText(item.time, clock(error.time));
      item.time.title = dateTime(error.time);
      item.count.hidden = !(error.count > 1);
      setText(item.count, `${error.count} times`);
      if (item.node === place) place = place.nextElementSibling;
      else this.node.insertBefore(item.node, place);
    }
  }

  #build(error) {
    const time = element("span", { class: "time muted" });
    const times = element("span", { class: "tag" });
    const where = this.withModel && error.model
      ? element("a", { href: modelHref(error.model, error.version) }, `${error.model} ${error.version}`)
      : null;
    const id = error.request_id ? element("span", { class: "muted request-id" }, "request ", element("code", {}, error.request_id)) : null;
    const text = element("span", { class: "text" }, error.message);
    const body = error.traceback
      ? element("details", {}, element("summary", {}, text), listing(error.traceback))
      : element("p", {}, text);
    const node = element("li", {}, element("p", { class: "origin" }, time, where, times, id), body);
    return { node, time, count: times };
  }
}

export class ErrorList extends View {
  build() {
    this.items = new ErrorItems({ withModel: true });
    this.none = element("p", { class: "empty" }, "No request has failed since the server started.");
    this.card = element("section", { class: "card", "aria-label": "Last errors" }, this.items.node);
    this.append(element("div", { class: "heading" }, element("h1", {}, "Errors")), this.none, this.card);
    this.follow(["errors"], () => {
      this.none.hidden = store.errors.length > 0;
      this.card.hidden = store.errors.length === 0;
      this.items.draw(store.errors);
    });
  }
}

customElements.define("mooring-errors", ErrorList);
