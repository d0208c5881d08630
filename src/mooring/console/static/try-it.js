// <mooring-try>: asks a model from the page. Properties: model, version, detail.

export class TryIt extends HTMLElement {}

customElements.define("mooring-try", TryIt);
