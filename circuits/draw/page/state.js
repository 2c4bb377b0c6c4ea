// What is in view: one flat record that stands in the address and in a file, and reopens from both.

const VIEW_SCHEMA = "vitcircuits.view/1";
const NOTHING = {node: "", other: "", edge: "", place: "", paths: false}; // is chosen
const START = {
  n: 0,
  ...NOTHING,
  pair: 0,
  token: -1,
  kind: "pattern",
  over: "",
  colours: "signed",
  search: "",
  sort: "rank",
  down: false,
  only: "",
  at: null,
};

class State {
  constructor(title, start) {
    this.title = title;
    this.start = {...START, ...start};
    this.values = {...this.start};
    this.listeners = [];
  }

  on(listener) {
    this.listeners.push(listener);
  }

  set(changes) {
    const changed = Object.keys(changes).filter(key => String(changes[key]) !== String(this.values[key]));
    if (!changed.length) return;
    Object.assign(this.values, changes);
    for (const listener of this.listeners) listener(new Set(changed));
  }

  // Only what differs from the start.
  differing() {
    return Object.entries(this.values).filter(([key, value]) => String(value) !== String(this.start[key]));
  }

  toHash() {
    const said = new URLSearchParams(this.differing().map(([key, value]) => [key, String(value)]));
    return said.size ? `#${said}` : "#";
  }

  fromHash(hash) {
    const said = Object.fromEntries(new URLSearchParams(hash.replace(/^#/, "")));
    this.set({
      ...this.start,
      ...Object.fromEntries(Object.entries(said).map(([key, text]) => [key, read(key, text, this.start)])),
    });
  }

  // Writes what is in view into the address; not where a page may not, such as in a frame of a notebook.
  remember() {
    clearTimeout(this.remembering);
    this.remembering = setTimeout(() => {
      try {
        history.replaceState(null, "", this.toHash());
      } catch (error) {
        if (error.name !== "SecurityError") throw error;
      }
    }, 150);
  }

  toFile() {
    return JSON.stringify({schema: VIEW_SCHEMA, page: this.title, ...Object.fromEntries(this.differing())}, null, 1);
  }

  // A sentence that says why, where the text is no view of this page.
  fromFile(text) {
    let found;
    try {
      found = JSON.parse(text);
    } catch (error) {
      return `This file is not JSON: ${error.message}.`;
    }
    if (found?.schema !== VIEW_SCHEMA) return "This file is no view: it was not saved by \u201cView as JSON\u201d.";
    if (found.page !== this.title) return `This view is of another page: \u201c${found.page}\u201d.`;
    this.set({
      ...this.start,
      ...Object.fromEntries(Object.entries(found).map(([key, value]) => [key, read(key, String(value), this.start)])),
    });
    return "";
  }
}

// Buttons that save what is in view and open what was saved; what a file is not is said in `message`.
function viewFiles(state, message) {
  const save = () => saveAs(new Blob([state.toFile()], {type: "application/json"}), "view.json");
  const open = async () => {
    const [chosen] = file.files;
    if (chosen) message.textContent = state.fromFile(await chosen.text());
    file.value = "";
  };
  const file = make("input", {type: "file", accept: ".json", hidden: true, "aria-label": "Open a view", onchange: open});
  return [
    make("button", {type: "button", onclick: save}, "View as JSON"),
    make("button", {type: "button", onclick: () => file.click()}, "Open view"),
    file,
  ];
}

// A value of the kind that it starts with; what is not understood is what it starts with.
function read(key, text, values) {
  const start = values[key];
  if (key === "at") {
    const numbers = text.split(",").map(Number);
    return numbers.length === 3 && numbers.every(Number.isFinite) ? numbers : null;
  }
  if (typeof start === "boolean") return text === "true";
  if (typeof start === "string") return key === "colours" && text !== "absolute" ? start : text;
  return Number.isInteger(Number(text)) && text.trim() ? Number(text) : start;
}
