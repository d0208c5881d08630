// The end of the log. At most LINES lines are kept and shown; the list follows the end until somebody scrolls back.

import { field } from "./dialogs.js";
import { button, element, select, setText } from "./dom.js";
import { clock, dateTime } from "./format.js";
import { renew } from "./parts.js";
import { LINES, store, View } from "./store.js";

const LEVELS = ["DEBUG", "INFO", "WARNING", "ERROR"];
const NEAR = 30; // pixels from the end that still count as the end

class LogTail extends View {
	#paused = false;
	#last = -1;

	build() {
		const redraw = () => this.redraw();
		this.level = select(LEVELS.map((level) => [level, level.toLowerCase()]), { onchange: redraw });
		this.model = select([], { onchange: redraw });
		this.filter = element("input", { type: "search", oninput: redraw });
		this.pause = button("Pause", () => this.togglePause());
		this.end = button("To the end", () => this.scrollToEnd(), { hidden: true });
		this.list = element("div.log", { tabindex: "0", role: "log", "aria-live": "off", "aria-label": "Lines of the log" });
		this.list.addEventListener("scroll", () => (this.end.hidden = this.atEnd()));
		this.none = element("p.empty", { hidden: true }, "No line of the log is like that.");
		this.append(element("div.heading", element("h1", "Logs")),
			element("div.toolbar", field("At least", this.level), field("Model", this.model), field("Text", this.filter), this.pause, this.end),
			element("section.card.log-card", { "aria-label": "Log" }, this.none, this.list));
		store.addEventListener("logs", (event) => (event.detail ? this.add(event.detail) : this.redraw()), { signal: this.gone });
		document.addEventListener("visibilitychange", () => document.hidden || this.redraw(), { signal: this.gone });
		this.follow(["state"], () => this.drawModels());
		this.redraw();
	}

	togglePause() {
		this.#paused = !this.#paused;
		setText(this.pause, this.#paused ? "Continue" : "Pause");
		if (!this.#paused) this.redraw();
	}

	drawModels() {
		const names = [...new Set((store.state?.models ?? []).map((model) => model.name))];
		const chosen = this.model.value;
		renew(this.model, names, () => [...select([["", "all"], ...names.map((name) => [name])]).children]);
		this.model.value = names.includes(chosen) ? chosen : "";
	}

	/** Show all lines that are wanted, anew. */
	redraw() {
		this.list.replaceChildren();
		this.#last = -1;
		this.appendLines(store.lines);
		this.scrollToEnd();
	}

	add(lines) {
		if (this.#paused || document.hidden) return;
		const follow = this.atEnd();
		this.appendLines(lines);
		while (this.list.childElementCount > LINES) this.list.firstElementChild.remove();
		if (follow) this.scrollToEnd();
	}

	appendLines(lines) {
		const wanted = lines.filter((line) => line.id > this.#last && this.matches(line));
		this.#last = lines.at(-1)?.id ?? this.#last;
		this.list.append(...wanted.map(makeLine));
		this.none.hidden = this.list.childElementCount > 0;
	}

	matches(line) {
		const text = this.filter.value.toLowerCase();
		return rank(line.level) >= rank(this.level.value)
			&& (!this.model.value || line.model === this.model.value)
			&& (!text || `${line.message} ${line.logger} ${line.request_id}`.toLowerCase().includes(text));
	}

	atEnd() {
		return this.list.scrollHeight - this.list.scrollTop - this.list.clientHeight < NEAR;
	}

	scrollToEnd() {
		this.list.scrollTop = this.list.scrollHeight;
		this.end.hidden = true;
	}
}

const rank = (level) => [...LEVELS, "CRITICAL"].indexOf(level);

function makeLine(line) {
	return element("p", { class: line.level.toLowerCase() },
		element("time", { title: dateTime(line.time) }, clock(line.time)), element("span.level", line.level),
		element("span.text", line.model && element("span.model", line.model), line.message));
}

customElements.define("mooring-logs", LogTail);
