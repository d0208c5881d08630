// Elements and their text. Whatever comes from the server reaches the page as text or as an attribute's value here,
// and never as markup.

/**
 * A new element. Attributes whose value is a function are listeners ("onclick"); true is an empty attribute, and
 * null, undefined and false leave one out. Children are nodes or texts; null and false are left out.
 */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else setAttribute(made, name, value);
  }
  made.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return made;
}

/** A new element of SVG, with attributes only. */
export function svgElement(tag, attributes = {}) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) setAttribute(made, name, value);
  return made;
}

/** Give an element this text. Nothing is written where it has it already, so that a second's update stays cheap. */
export function setText(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Give an element this attribute, or take it away (null, undefined, false). */
export function setAttribute(node, name, value) {
  if (value === null || value === undefined || value === false) {
    if (node.hasAttribute(name)) node.removeAttribute(name);
    return;
  }
  const text = value === true ? "" : String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

/** The address of a version's page. */
export function modelHref(name, version) {
  return `#/models/${encodeURIComponent(name)}/${encodeURIComponent(version)}`;
}

/** A text that can be copied by a button beside it. */
export function copyButton(text, label = "Copy") {
  const button = element("button", { type: "button", class: "small" }, label);
  button.addEventListener("click", async () => {
    const wanted = typeof text === "function" ? text() : text;
    const done = await writeClipboard(wanted);
    button.textContent = done ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = label), 1500);
  });
  return button;
}

async function writeClipboard(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false; // not over plain HTTP on another host, and not without leave
  }
}
