// A version's page: what it does now, what it takes and gives, its workers, its errors, and the try-it form.

import { getJson, modelPath, postJson } from "./api.js";
import { openDialog, field } from "./dialogs.js";
import { button, element, modelHref, setAttribute, setText } from "./dom.js";
import { errorItems } from "./error-list.js";
import { bytes, clock, count, dateTime, digits, milliseconds, perSecond, seconds, shapeText } from "./format.js";
import { card, Figures, listing, renew, table } from "./parts.js";
import { Sparkline } from "./sparkline.js";
import { showState } from "./states.js";
import { store, View } from "./store.js";
import "./try-it.js";

const REFRESH = 5_000; // ms between two looks at the workers
// Of a description, what stands elsewhere on the page; and what is in seconds.
const SHOWN = new Set(["name", "version", "state", "is_default", "reason", "detail", "workers", "pending", "explains", "scaled_to_zero", "start_seconds"]);
const SECONDS = /^max_delay$|_timeout$/;

class ModelPage extends View {
	/** Set before it is shown. A version of null is the default one. */
	name = "";
	version = null;
	#detail = null;
	#seen = "";
	#asked = 0;

	build() {
		this.state = element("span");
		this.badge = element("span.tag.default", { hidden: true }, "default");
		this.others = element("ul.versions", { "aria-label": "Versions" });
		this.actions = element("div.actions");
		this.said = element("p.message", { role: "status", hidden: true });
		this.fault = card("Why it is not ready");
		this.fault.classList.add("fault");
		this.live = new LiveFigures();
		this.trial = card("Try it");
		this.schema = card("Inputs and outputs");
		this.workers = card("Workers");
		this.about = card("Description");
		this.errorItems = errorItems(false);
		this.errors = card("Last errors", this.errorItems.node);
		this.heading = element("h1", this.name, this.version ? element("span.version", ` ${this.version}`) : null);
		this.append(
			element("p.trail", element("a", { href: "#/" }, "All models")),
			element("div.heading", this.heading, this.badge, this.state, this.actions),
			this.others, this.said, this.fault, this.live.node,
			element("div.columns",
				element("div.column", this.trial, this.errors),
				element("div.column", this.schema, this.workers, this.about)),
		);
		this.makeActions();
		this.follow(["state"], () => this.drawState());
		this.follow(["errors"], () => this.drawErrors());
		this.follow(["connection"], () => (this.#asked = 0));
	}

	makeActions() {
		this.load = button("Load", () => this.loadNow(), { class: "primary" });
		this.scale = button("Scale…", () => this.askScale());
		this.makeDefault = button("Make default…", () => this.askDefault());
		this.unload = button("Unload…", () => this.askUnload(), { class: "danger" });
		this.actions.append(this.load, this.scale, this.makeDefault, this.unload);
	}

	drawState() {
		if (!store.state) return;
		const versions = store.versions(this.name);
		const named = this.version && versions.length ? (store.version(this.name, this.version) ?? unloaded(this.name, this.version)) : null;
		const row = named ?? versions.find((each) => each.is_default) ?? versions[0] ?? null;
		if (row && row.version !== this.version) {
			location.replace(modelHref(row.name, row.version));
			return;
		}
		this.row = row;
		this.drawVersions(versions);
		this.live.node.hidden = !row || row.state === "UNAVAILABLE";
		if (!row) {
			setAttribute(this.state, "class", "state off");
			setText(this.state, "Not on this server");
			for (const each of [...this.actions.children, this.trial, this.workers, this.fault]) each.hidden = true;
			return;
		}
		showState(this.state, row);
		this.badge.hidden = !row.is_default || versions.length < 2;
		this.load.hidden = row.state === "READY" || row.state === "LOADING";
		setText(this.load, row.state === "FAILED" ? "Load again" : "Load");
		this.scale.hidden = !isServed(row);
		this.makeDefault.hidden = row.is_default || row.state === "UNAVAILABLE";
		this.unload.hidden = row.state === "UNAVAILABLE";
		for (const each of [this.trial, this.workers]) if (!isServed(row)) each.hidden = true;
		if (!this.live.node.hidden) this.live.draw(row, store.history(this.name, this.version));
		this.drawFault(row);
		const look = JSON.stringify([row.state, row.workers, row.is_default]);
		if (look !== this.#seen || Date.now() - this.#asked > REFRESH) {
			this.#seen = look;
			this.#asked = Date.now();
			this.fetchDetail();
		}
	}

	drawVersions(versions) {
		this.others.hidden = versions.length < 2;
		renew(this.others, versions.map((each) => [each.version, each.is_default]), () => versions.map((each) =>
			element("li", element("a", { href: modelHref(each.name, each.version), "aria-current": each.version === this.version && "page" },
				each.version || "no version", each.is_default ? " (default)" : ""))));
	}

	drawFault(row) {
		const reason = row.state === "READY" || row.reason === "not loaded" ? "" : row.reason;
		const traceback = this.#detail?.description.detail;
		this.fault.hidden = !reason;
		renew(this.fault.body, [reason, traceback], () => [element("p.bad", reason), traceback && listing(traceback)]);
	}

	drawErrors() {
		const own = store.errors.filter((error) => error.model === this.name && (!error.version || error.version === this.version));
		this.errors.hidden = own.length === 0;
		this.errorItems.draw(own.slice(0, 10));
	}

	async fetchDetail() {
		if (!this.version || this.row.state === "UNAVAILABLE") return;
		try {
			this.#detail = await getJson(modelPath(this.name, this.version));
		} catch {
			return; // the connection's banner or the state says why
		}
		if (!this.isConnected || !this.row) return;
		this.drawFault(this.row);
		this.drawSchema(this.#detail);
		this.drawDescription(this.#detail.description);
		this.drawTrial(this.#detail);
	}

	/** The form is made once, and again only when what the model takes has changed. */
	drawTrial(detail) {
		const { inputs, outputs, values, examples } = detail;
		this.trial.hidden = !isServed(this.row);
		if (this.trial.hidden) return;
		renew(this.trial.body, [inputs, outputs, values, examples], () =>
			[Object.assign(element("mooring-try"), { model: this.name, version: this.version, detail })]);
	}

	drawSchema({ inputs = [], outputs = [], values }) {
		this.schema.hidden = !(values || inputs.length || outputs.length);
		renew(this.schema.body, [inputs, outputs, values], () => (values
			? [values.text && element("p", values.text), schemaBlock("Request", values.request), schemaBlock("Response", values.response)]
			: [tensorTable("Inputs", inputs), tensorTable("Outputs", outputs)]));
	}

	drawWorkers(workers) {
		this.workers.hidden = workers.length === 0 || !isServed(this.row);
		renew(this.workers.body, workers, () => [table(["Worker", "*PID", "State", "*Memory", "Started"], workers.map((worker) =>
			element("tr", element("th", { scope: "row" }, worker.id), element("td.number", String(worker.pid)),
				element("td", worker.state.toLowerCase()), element("td.number", bytes(worker.memory)),
				element("td", { title: dateTime(worker.started) }, sinceText(worker.started)))))]);
	}

	drawDescription(description) {
		this.drawWorkers(description.workers);
		const pairs = Object.entries(description).filter(([key, value]) => !SHOWN.has(key) && !isEmpty(value));
		this.about.hidden = pairs.length === 0;
		renew(this.about.body, pairs, () => [element("dl.pairs",
			pairs.flatMap(([key, value]) => [element("dt", key.replaceAll("_", " ")), element("dd", readable(key, value))]))]);
	}

	post(action, body) {
		return postJson(`${modelPath(this.name)}/${action}`, { version: this.version || undefined, ...body });
	}

	async loadNow() {
		this.say("Loading…");
		this.load.disabled = true;
		await this.post("load").then(() => this.say("Loaded."), (error) => this.say(`Not loaded: ${error.message}`, true));
		this.load.disabled = false;
	}

	say(text, wrong = false) {
		this.said.hidden = false;
		this.said.classList.toggle("error", wrong);
		setText(this.said, text);
	}

	/** Ask in a dialog, and say what was done. */
	async ask(dialog, said) {
		if (await openDialog(dialog)) this.say(said());
	}

	askUnload() {
		this.ask({
			title: `Unload ${this.name} ${this.version}?`, confirm: "Unload", danger: true, act: () => this.post("unload"),
			content: [element("p", "Requests that it has are answered. New ones are refused until it is loaded again.")],
		}, () => `${this.name} ${this.version} is unloaded.`);
	}

	askDefault() {
		this.ask({
			title: `Make ${this.version} the default?`, confirm: "Make default", act: () => this.post("default"),
			content: [element("p", `Requests to ${this.name} that name no version will go to ${this.version}.`)],
		}, () => `${this.version} is the default version of ${this.name}.`);
	}

	askScale() {
		const { min_workers: low, max_workers: high } = this.#detail?.description ?? {};
		const [least, most] = [["least", low], ["most", high]].map(([name, value]) =>
			element("input", { type: "number", name, min: name === "most" ? 1 : 0, max: 1000, value: value ?? this.row.workers.wanted, required: true }));
		this.ask({
			title: `Workers of ${this.name} ${this.version}`, confirm: "Scale", content: [field("At least", least), field("At most", most)],
			act: () => {
				if (Number(least.value) > Number(most.value)) throw new Error("At most has to be at least as large as at least.");
				return this.post("scale", { min_workers: Number(least.value), max_workers: Number(most.value) });
			},
		}, () => `${this.name} ${this.version} has ${least.value} to ${most.value} workers.`);
	}
}

/** The figures of a version, and its two charts. */
class LiveFigures {
	constructor() {
		this.figures = new Figures({
			rate: "Answers per second", latency: "Latency p95", queue: "Queue p95", waiting: "Waiting", workers: "Workers ready",
			rows: "Rows in a batch", failed: "Failed",
		});
		this.rate = new Sparkline("rate");
		this.p95 = new Sparkline("latency");
		this.rateTop = element("span.muted");
		this.p95Top = element("span.muted");
		this.charts = element("div.charts",
			chart("Answers per second, last two minutes", this.rateTop, this.rate),
			chart("Latency p95, last two minutes", this.p95Top, this.p95));
		this.node = element("div.live", this.figures.node, this.charts);
	}

	draw(row, history) {
		const { latency_ms: latency, queue_ms: queue, workers } = row;
		const others = (shares) => (shares ? `p50 ${milliseconds(shares.p50)}, p99 ${milliseconds(shares.p99)}` : "");
		const oldest = row.waiting ? `, oldest ${milliseconds(row.oldest_wait_ms)}` : "";
		this.figures.set("rate", perSecond(row.rate), `${count(row.answered)} in all`);
		this.figures.set("latency", milliseconds(latency?.p95), others(latency) || "no answer in 10 s");
		this.figures.set("queue", milliseconds(queue?.p95), others(queue));
		this.figures.set("waiting", count(row.waiting), `${count(row.in_flight)} in flight${oldest}`);
		this.figures.set("workers", `${workers.ready} of ${workers.wanted}`, workers.starting ? `${workers.starting} starting` : "");
		this.figures.set("rows", row.batch_rows ? digits(row.batch_rows) : "–", "mean of 10 s");
		this.figures.set("failed", count(row.failed), "in all");
		this.charts.hidden = !isServed(row);
		setText(this.rateTop, `up to ${perSecond(this.rate.draw(history.rate))}`);
		const top = this.p95.draw(history.p95);
		setText(this.p95Top, top ? `up to ${milliseconds(top)}` : "no answers");
	}
}

/** What the server says nothing of: a version that is not loaded, of a model that it knows. */
function unloaded(name, version) {
	return { name, version, state: "UNAVAILABLE", is_default: false, reason: "", scaled_to_zero: false };
}

function isServed(row) {
	return row.state === "READY" || row.scaled_to_zero;
}

function chart(title, top, line) {
	return element("figure.card.chart", element("figcaption", title, top), line.node);
}

/** A time of today as it is on a clock, an older one with its date. */
function sinceText(epoch) {
	if (!epoch) return "–";
	return new Date(epoch * 1000).toDateString() === new Date().toDateString() ? clock(epoch) : dateTime(epoch);
}

function tensorTable(title, tensors) {
	if (!tensors.length) return null;
	const rows = tensors.map((tensor) => element("tr",
		element("th", { scope: "row" }, tensor.name, tensor.optional ? element("span.tag", "optional") : null),
		element("td", tensor.datatype), element("td.mono", tensor.shape ? shapeText(tensor.shape) : "any")));
	const made = table([title, "Type", "Shape"], rows);
	made.classList.add("even");
	return made;
}

function schemaBlock(title, schema) {
	if (!schema) return null;
	return element("details", element("summary", title), listing(JSON.stringify(schema, null, 2), `JSON Schema: ${title}`));
}

function isEmpty(value) {
	return value === null || value === "" || value === false || (Array.isArray(value) && !value.length);
}

function readable(key, value) {
	if (key === "version_policy") return value.specific.length ? value.specific.join(", ") : value.latest ? `the latest ${value.latest}` : "all";
	if (SECONDS.test(key)) return value === 0 ? "none" : value < 1 ? milliseconds(value * 1000) : seconds(value);
	if (value === true) return "yes";
	return typeof value === "object" ? JSON.stringify(value) : String(value);
}

customElements.define("mooring-model", ModelPage);
