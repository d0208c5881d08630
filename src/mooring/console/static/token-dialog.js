// Asks for the management token. It is kept by api.js, for this tab alone.

import { openDialog, field } from "./dialogs.js";
import { element, input } from "./dom.js";

/** The token that the person gives, or null. `wrong`: the server has refused the last one. */
export function askForToken({ wrong }) {
	const token = input({ type: "password", name: "token", required: true, autofocus: true });
	return openDialog({
		title: wrong ? "The token is wrong" : "A token is needed",
		content: [
			element("p", { class: wrong ? "message error" : "muted", role: wrong ? "alert" : null },
				wrong ? "The server refused this token. It may have expired." : "This server shows its console to those who have its management token."),
			field("Management token", token, "It is kept until this tab is closed."),
		],
		confirm: "Continue",
		act: async () => token.value.trim(),
	});
}
