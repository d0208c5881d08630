// Dialogs of the browser's own kind: it keeps the focus inside, closes them on Escape and gives the focus back.

import { button, element, newId, setText } from "./dom.js";

/**
 * Ask the person. `content` are nodes inside the form, `confirm` the text of its button. `act(form)` is awaited on
 * submit; what it raises is shown, and the dialog stays. Gives what `act` gave, or null where the person left.
 */
export function openDialog({ title, content = [], confirm, danger = false, act }) {
	const id = newId();
	const problem = element("p.message.error", { role: "alert", hidden: true });
	const submit = element("button", { type: "submit", class: danger ? "danger" : "primary" }, confirm);
	const cancel = button("Cancel", () => dialog.close());
	const form = element("form", { method: "dialog" },
		element("h2", { id }, title), content, problem, element("div.buttons", cancel, submit));
	const dialog = element("dialog", { "aria-labelledby": id }, form);
	let result = null;

	form.addEventListener("submit", async (event) => {
		event.preventDefault();
		problem.hidden = true;
		submit.disabled = true;
		setText(submit, "Working…");
		try {
			result = await act(form);
			dialog.close();
		} catch (error) {
			problem.hidden = false;
			setText(problem, error.message);
		} finally {
			submit.disabled = false;
			setText(submit, confirm);
		}
	});
	document.body.append(dialog);
	dialog.showModal();
	return new Promise((resolve) => {
		dialog.addEventListener("close", () => {
			dialog.remove();
			resolve(result);
		});
	});
}

/** A labelled field of a form. */
export function field(label, input, note = "") {
	input.id = newId();
	const below = note && element("p.muted.note", { id: newId() }, note);
	if (note) input.setAttribute("aria-describedby", below.id);
	return element("div.field", element("label", { for: input.id }, label), input, below);
}
