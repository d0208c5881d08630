// The settings in force, by group, each with where it came from. At first only those that somebody has set.

import { getJson } from "./api.js";
import { field } from "./dialogs.js";
import { element, setText } from "./dom.js";
import { View } from "./store.js";

class SettingsTable extends View {
	#settings = [];

	build() {
		const redraw = () => this.redraw();
		this.filter = element("input", { type: "search", oninput: redraw });
		this.all = element("input", { type: "checkbox", onchange: redraw });
		this.said = element("p.muted", "Reading the settings…");
		this.groups = element("div.groups");
		this.append(element("div.heading", element("h1", "Settings")),
			element("div.toolbar", field("Name or text", this.filter), element("label.check", this.all, "Also those that have their default")),
			this.said, this.groups);
		this.load();
		this.follow(["connection"], () => this.load());
	}

	async load() {
		try {
			this.#settings = (await getJson("settings")).settings;
		} catch (error) {
			if (!this.#settings.length) setText(this.said, `The settings cannot be read: ${error.message}`);
			return;
		}
		this.redraw();
	}

	redraw() {
		const text = this.filter.value.toLowerCase();
		const changed = this.#settings.filter((setting) => setting.source !== "default");
		const shown = (this.all.checked || text ? this.#settings : changed)
			.filter((setting) => `${setting.name} ${setting.text} ${setting.value}`.toLowerCase().includes(text));
		const groups = new Map();
		for (const setting of shown) groups.set(setting.group, [...(groups.get(setting.group) ?? []), setting]);
		setText(this.said, `${changed.length} of ${this.#settings.length} settings are set; the others have their default.`
			+ (shown.length ? "" : text ? " None is like that." : " Show them all to read what there is."));
		this.groups.replaceChildren(...[...groups].map(([name, settings]) =>
			element("section.card", element("h2", name), element("dl.settings", settings.map(makeSetting)))));
	}
}

function makeSetting(setting) {
	const set = setting.source !== "default";
	return element("div", { class: set && "changed" },
		element("dt", element("code", setting.name)),
		element("dd.value", element("code", setting.value || "empty"),
			set && setting.default !== setting.value && element("span.muted", " default ", element("code", setting.default || "empty"))),
		element("dd.source", set ? element("span.tag.default", setting.source) : element("span.muted", "default")),
		element("dd.text.muted", setting.text));
}

customElements.define("mooring-settings", SettingsTable);
