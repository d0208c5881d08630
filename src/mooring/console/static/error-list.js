// The last errors, newest first, each with the traceback of its worker one click away.

import { element, modelHref, setText } from "./dom.js";
import { clock, dateTime } from "./format.js";
import { KeyedList, listing } from "./parts.js";
import { store, View } from "./store.js";

/** A list of ERRORs. `withModel`: each says which model it is of. */
export function errorItems(withModel) {
	const node = element("ul.errors");
	const list = new KeyedList(node, (error) => error.id, (error) => makeItem(error, withModel));
	return { node, draw: (errors) => list.draw(errors) };
}

function makeItem(error, withModel) {
	const time = element("span.muted");
	const times = element("span.tag");
	const where = withModel && error.model && element("a", { href: modelHref(error.model, error.version) }, `${error.model} ${error.version}`);
	const id = error.request_id && element("span.muted.request-id", "request ", element("code", error.request_id));
	const text = element("span.text", error.message);
	const body = error.traceback ? element("details", element("summary", text), listing(error.traceback)) : element("p", text);
	const node = element("li", element("p.origin", time, where, times, id), body);
	const draw = (now) => {
		setText(time, clock(now.time));
		time.title = dateTime(now.time);
		times.hidden = !(now.count > 1);
		setText(times, `${now.count} times`);
	};
	return { nodes: [node], draw };
}

class ErrorList extends View {
	build() {
		this.items = errorItems(true);
		this.none = element("p.empty", "No model has failed since the server started.");
		this.card = element("section.card", { "aria-label": "Last errors" }, this.items.node);
		this.append(element("div.heading", element("h1", "Errors")), this.none, this.card);
		this.follow(["errors"], () => {
			this.none.hidden = store.errors.length > 0;
			this.card.hidden = store.errors.length === 0;
			this.items.draw(store.errors);
		});
	}
}

customElements.define("mooring-errors", ErrorList);
