// Elements, numbers and files. Text only ever enters the page as text.

function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false && value != null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter(child => child != null));
  return element;
}

function makeSvg(name, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) if (value != null) element.setAttribute(key, value);
  element.append(...children);
  return element;
}

// Three significant digits, as Python's `number` writes them.
function number(value, signed = false) {
  if (value == null) return "\u2013";
  const text = String(Number(value.toPrecision(3)));
  return (signed && value > 0 ? "+" : "") + text.replace(/^-/, "\u2212");
}

function signOf(score) {
  return score > 0 ? "positive" : score < 0 ? "negative" : "unscored";
}

function saveAs(blob, name) {
  const link = make("a", {href: URL.createObjectURL(blob), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
