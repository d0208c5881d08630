// The overview: the server in a line, what needs a look, and every version with what it does now. Rows are made once
// and then only their texts change.

import { getJson, modelPath, postJson } from "./api.js";
import { field, openDialog } from "./dialogs.js";
import { button, copyButton, element, input, modelHref, setAttribute, setText } from "./dom.js";
import { bytes, count, digits, milliseconds, perSecond, seconds } from "./format.js";
import { Figures, KeyedList, listing, renew } from "./parts.js";
import { Sparkline } from "./sparkline.js";
import { showState } from "./states.js";
import { keyOf, store, View } from "./store.js";

const MANY = 8; // rows from which on they can be searched
const COMMAND = "mooring serve app.py:Model";

/** The columns: a key, a head, whether it holds numbers, and what to sort by, if anything. */
const COLUMNS = [
	{ key: "name", head: "Model", sort: null },
	{ key: "state", head: "State", sort: (row) => ["FAILED", "LOADING", "UNLOADING", "READY", "UNAVAILABLE"].indexOf(row.state) },
	{ key: "workers", head: "Workers", number: true },
	{ key: "waiting", head: "Waiting", number: true, sort: (row) => -row.waiting },
	{ key: "flight", head: "In flight", number: true },
	{ key: "rate", head: "Rate /s", number: true, sort: (row) => -(row.rate ?? 0) },
	{ key: "rateLine", head: "", label: "Rate, two minutes", line: true },
	{ key: "p50", head: "p50", number: true },
	{ key: "p95", head: "p95", number: true, sort: (row) => -(row.latency_ms?.p95 ?? 0) },
	{ key: "p99", head: "p99", number: true },
	{ key: "p95Line", head: "", label: "p95, two minutes", line: true },
	{ key: "rows", head: "Batch rows", number: true },
	{ key: "failed", head: "Failed", number: true, sort: (row) => -row.failed },
];

class ModelList extends View {
	#sort = "name";
	#filter = "";

	build() {
		this.summary = new Summary();
		this.filter = element("input", { type: "search", placeholder: "Name of a model", "aria-label": "Show models with this name", oninput: () => this.setFilter() });
		const body = element("tbody", { role: "rowgroup" });
		this.rows = new KeyedList(body, keyOf, (model) => new Row(model));
		this.heads = new Map(COLUMNS.map((column) => [column.key, this.makeHead(column)]));
		const head = element("tr", { role: "row" }, [...this.heads.values()]);
		this.table = element("div.card.models",
			element("table", { role: "table", "aria-label": "Versions of models" }, element("thead", { role: "rowgroup" }, head), body));
		this.empty = makeEmpty();
		this.nothing = element("p.empty", { hidden: true }, "No model has this name.");
		this.append(
			element("div.heading", element("h1", "Models"),
				element("div.actions", this.filter, button("Register…", () => this.askRegister()))),
			this.summary.node, this.empty, this.table, this.nothing);
		for (const each of [this.summary.node, this.empty, this.table, this.filter]) each.hidden = true;
		this.showSort();
		this.follow(["state"], () => this.draw());
	}

	makeHead(column) {
		const { key, head, label, sort } = column;
		const content = label ? element("span.visually-hidden", label) : sort === undefined ? head : button(head, () => this.setSort(key), { class: "sort" });
		return element("th", { role: "columnheader", scope: "col", class: column.number && "number" }, content);
	}

	setSort(key) {
		this.#sort = key;
		this.showSort();
		this.draw();
	}

	showSort() {
		for (const { key, sort } of COLUMNS) {
			if (sort !== undefined) setAttribute(this.heads.get(key), "aria-sort", key === this.#sort ? (key === "name" ? "ascending" : "descending") : null);
		}
	}

	setFilter() {
		this.#filter = this.filter.value.toLowerCase();
		this.draw();
	}

	draw() {
		const { state } = store;
		if (!state) return;
		const { models } = state;
		this.summary.draw(state);
		this.summary.node.hidden = false;
		this.empty.hidden = models.length > 0;
		this.filter.hidden = models.length <= MANY && !this.#filter;
		const shown = this.sorted(models.filter((model) => model.name.toLowerCase().includes(this.#filter)));
		this.table.hidden = shown.length === 0;
		this.nothing.hidden = shown.length > 0 || models.length === 0;
		this.rows.draw(shown);
	}

	/** By name, a model's default version first; or by what was chosen. */
	sorted(models) {
		const { sort } = COLUMNS.find((column) => column.key === this.#sort);
		const byName = (a, b) => compare(a.name, b.name) || b.is_default - a.is_default || compare(b.version, a.version);
		return [...models].sort(sort ? (a, b) => sort(a) - sort(b) || byName(a, b) : byName);
	}

	async askRegister() {
		const url = input({ name: "url", required: true, placeholder: "digits.mar" });
		const name = input({ name: "name" });
		const done = await openDialog({
			title: "Register a model",
			content: [
				field("Archive", url, "A file of the model store, or an address that allowed_urls names."),
				field("Name", name, "Empty for the name in the archive."),
			],
			confirm: "Register",
			act: () => postJson("models", name.value ? { url: url.value, name: name.value } : { url: url.value }),
		});
		if (done && name.value) location.hash = `#/models/${encodeURIComponent(name.value)}`;
	}
}

/** The server in a line, and the figures that an operator looks for first. */
class Summary {
	constructor() {
		this.figures = new Figures({
			ready: "Models ready", rate: "Answers per second", slow: "Slowest p95", waiting: "Waiting", errors: "Failed requests",
			cpu: "CPU of one core", memory: "Memory",
		});
		this.facts = element("dl.facts");
		this.values = new Map();
		this.node = element("div.summary", this.figures.node, this.facts);
	}

	draw({ server, models }) {
		const wanted = models.filter((model) => model.state !== "UNAVAILABLE");
		const p95 = (model) => model?.latency_ms?.p95 ?? -1;
		const slowest = wanted.reduce((most, model) => (p95(model) > p95(most) ? model : most), null);
		const sum = (key) => wanted.reduce((total, model) => total + (model[key] ?? 0), 0);
		const oldest = Math.max(0, ...wanted.map((model) => model.oldest_wait_ms ?? 0));
		const troubles = wanted.filter((model) => model.state !== "READY");
		const failed = troubles.some((model) => model.state === "FAILED");
		const { figures } = this;
		figures.set("ready", `${wanted.length - troubles.length} of ${wanted.length}`,
			troubles.map((model) => `${model.name}: ${model.state.toLowerCase()}`).join(", ") || (server.ready ? "all that are loaded" : "the server is not ready"),
			failed ? "bad" : null);
		figures.set("rate", perSecond(sum("rate")), `${count(sum("answered"))} in all`);
		figures.set("slow", milliseconds(slowest?.latency_ms.p95), slowest ? `${slowest.name} ${slowest.version}` : "no answer in 10 s");
		figures.set("waiting", count(sum("waiting")), oldest ? `oldest ${milliseconds(oldest)}` : `${count(sum("in_flight"))} in flight`);
		figures.set("errors", count(sum("failed")), "since the start", sum("failed") ? "bad" : null);
		figures.set("cpu", `${digits(server.cpu_percent)} %`, "without workers");
		figures.set("memory", bytes(server.memory_bytes), "without workers");
		this.fact("version", `Mooring ${server.version}`);
		this.fact("up", seconds(Math.max(0, Math.floor(Date.now() / 1000 - server.started))));
		this.fact("process", String(server.pid));
		this.fact("frontends", server.frontends > 1 ? String(server.frontends) : "");
		this.fact("log level", server.log_level);
		for (const [name, address] of Object.entries(server.addresses)) this.fact(name === "grpc" ? "gRPC" : name, address ?? "");
	}

	fact(name, text) {
		let value = this.values.get(name);
		if (!value) {
			value = element("dd");
			this.values.set(name, value);
			this.facts.append(element("div", element("dt", name), value));
		}
		setText(value, text);
		value.parentElement.hidden = text === "";
	}
}

/** A version's row, and below it why it is not ready. */
class Row {
	constructor(model) {
		this.name = model.name;
		this.version = model.version;
		this.cells = {};
		this.rate = new Sparkline("rate");
		this.p95 = new Sparkline("latency");
		this.state = element("span");
		this.badge = element("span.tag.default", "default");
		this.link = element("a", { href: modelHref(model.name, model.version), title: model.name }, model.name);
		this.row = element("tr", { role: "row" }, COLUMNS.map((column) => this.makeCell(column, model)));
		this.note = element("tr", { role: "row", class: "reason", hidden: true });
		this.nodes = [this.row, this.note];
	}

	makeCell(column, model) {
		if (column.key === "name") {
			return element("th", { scope: "row", role: "rowheader", class: "name" }, this.link,
				model.version && element("span.version", { title: model.version }, model.version), this.badge,
				element("span.kind.muted", model.kind));
		}
		const content = { state: this.state, rateLine: this.rate.node, p95Line: this.p95.node }[column.key];
		const cell = element("td", { role: "cell", class: `${column.key}-cell${column.number ? " number" : ""}${column.line ? " chart-cell" : ""}`, "data-label": column.head || column.label }, content);
		this.cells[column.key] = cell;
		return cell;
	}

	draw(model, before) {
		const history = store.history(model.name, model.version);
		const idle = !this.rate.draw(history.rate);
		this.p95.draw(history.p95);
		setAttribute(this.row, "class", `${model.state.toLowerCase()}${before?.name === model.name ? " follows" : ""}${idle ? " idle" : ""}`);
		showState(this.state, model);
		this.badge.hidden = !model.is_default || store.versions(model.name).length < 2;
		const { ready, wanted, starting } = model.workers;
		this.number("workers", `${ready} of ${wanted}${starting && ready ? `, ${starting} starting` : ""}`, wanted === 0);
		this.number("waiting", model.waiting ? `${count(model.waiting)} (${milliseconds(model.oldest_wait_ms)})` : "0", !model.waiting);
		this.number("flight", count(model.in_flight), !model.in_flight);
		this.number("rate", perSecond(model.rate), !model.rate);
		for (const share of ["p50", "p95", "p99"]) this.number(share, milliseconds(model.latency_ms?.[share]), !model.latency_ms);
		this.number("rows", model.batch_rows ? digits(model.batch_rows) : "–", !model.batch_rows);
		this.number("failed", count(model.failed), !model.failed);
		this.drawReason(model.state === "FAILED" || (model.state !== "READY" && model.workers.wanted) ? model.reason : "");
	}

	number(key, text, quiet) {
		setText(this.cells[key], text);
		this.cells[key].classList.toggle("zero", quiet);
	}

	drawReason(reason) {
		this.note.hidden = !reason;
		if (reason) renew(this.note, reason, () => {
			const traceback = listing("…");
			const details = element("details", element("summary", reason), traceback);
			details.addEventListener("toggle", async () => details.open && setText(traceback, await this.fetchTraceback()));
			return [element("td", { role: "cell", colspan: COLUMNS.length }, details)];
		});
	}

	async fetchTraceback() {
		try {
			const { description } = await getJson(modelPath(this.name, this.version));
			if (description.detail) return description.detail;
		} catch {
			// an error of the list may have it
		}
		const error = store.errors.find((each) => each.model === this.name && each.version === this.version && each.traceback);
		return error?.traceback ?? "No traceback: no worker of it got so far.";
	}
}

function makeEmpty() {
	return element("section.card.nothing", { hidden: true },
		element("h2", "No model is served yet"),
		element("p", "Start the server with one: a Python function or class, a model file, a folder or an archive."),
		element("p.command", element("code", COMMAND), copyButton(COMMAND)),
		element("p", "Without a model at hand, ", element("code", "mooring init my-model"), " writes a small one and its test. An archive of the model store can be registered here."));
}

function compare(a, b) {
	return a < b ? -1 : a > b ? 1 : 0;
}

customElements.define("mooring-models", ModelList);
