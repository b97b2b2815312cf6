// Fetches the page every two seconds and updates the nodes that differ. The others are not
// touched, so that a selection, the focus and the position of a screen reader stay. It also adds
// what needs a script: sorting, a filter, and the value under the pointer of a plot.
"use strict";

const INTERVAL_MS = 2000;
const FILTER_ID = "filter";
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];

// The column by which each table is sorted, by the first word of its caption.
const sorting = new Map();

function update(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(document.importNode(fresh, true));
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.data !== fresh.data) {
      old.data = fresh.data;
    }
    return;
  }
  for (const { name } of [...old.attributes]) {
    // People open and close a details element.
    if (!fresh.hasAttribute(name) && name !== "open") {
      old.removeAttribute(name);
    }
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) {
      old.setAttribute(name, value);
    }
  }
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, index) => {
    if (index < before.length) {
      update(before[index], node);
    } else {
      old.append(document.importNode(node, true));
    }
  });
  before.slice(after.length).forEach((node) => node.remove());
}

function element(name, attributes, ...content) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    made.setAttribute(key, value);
  }
  made.append(...content);
  return made;
}

function nameOf(table) {
  return table.caption.textContent.split(/[ ,]/)[0];
}

function compare(one, other) {
  const [a, b] = [one, other].map((cell) => cell.dataset.sort ?? cell.textContent);
  return a.localeCompare(b, "en", { numeric: true });
}

function sort(table, sorted) {
  const body = table.tBodies[0];
  const rows = [...body.rows].sort(
    (one, other) => sorted.sign * compare(one.cells[sorted.column], other.cells[sorted.column]),
  );
  body.append(...rows);
}

// Adds to a page, shown or fetched, what only makes sense with a script.
function enhance(main) {
  for (const table of main.querySelectorAll("table.sortable")) {
    const sorted = sorting.get(nameOf(table));
    [...table.tHead.rows[0].cells].forEach((cell, column) => {
      cell.replaceChildren(element("button", { type: "button" }, cell.textContent));
      if (sorted && sorted.column === column) {
        cell.setAttribute("aria-sort", sorted.sign > 0 ? "ascending" : "descending");
      }
    });
    if (sorted) {
      sort(table, sorted);
    }
    const filter = document.getElementById(FILTER_ID)?.value.trim().toLowerCase() ?? "";
    const rows = [...table.tBodies[0].rows];
    for (const row of rows) {
      row.hidden = !row.textContent.toLowerCase().includes(filter);
    }
    const shown = rows.filter((row) => !row.hidden).length;
    const tools = element(
      "div",
      { class: "tools" },
      element("output", { for: FILTER_ID }, filter ? `${shown} of these ${rows.length} match` : ""),
      element("label", { for: FILTER_ID }, "Filter"),
      element("input", { id: FILTER_ID, type: "search", placeholder: "address, state, ..." }),
    );
    table.closest("section").prepend(tools);
  }
}

let fetched = null;

// Shows the page that was fetched last, as it is sorted and filtered now.
function show() {
  const main = fetched.cloneNode(true);
  enhance(main);
  update(document.querySelector("main"), main);
  showValue();
}

async function refresh() {
  if (!document.hidden) {
    const state = document.querySelector(".state");
    try {
      const response = await fetch("./", { cache: "no-store", signal: AbortSignal.timeout(10000) });
      const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
      const main = fresh.querySelector("main");
      if (!main) {
        throw new Error("no page");
      }
      fetched = main;
      show();
      document.title = fresh.title;
      document.documentElement.classList.remove("stale");
    } catch {
      const since = state.dataset.since || new Date().toLocaleTimeString();
      if (!state.dataset.since) {
        document.title = `no answer - ${document.title}`;
      }
      state.dataset.since = since;
      state.className = "state warning";
      state.textContent = `no answer since ${since}; the figures are old`;
      document.documentElement.classList.add("stale");
    }
  }
  setTimeout(refresh, INTERVAL_MS);
}

// As format_number(), format_size() and format_delay() of the daemon.
function number(value) {
  const digits = Number.isInteger(value) || value >= 10 ? 0 : 1;
  return value.toLocaleString("en-US", { maximumFractionDigits: digits });
}

function size(value) {
  let unit = 0;
  while (value >= 1023.5 && unit < UNITS.length - 1) {
    value /= 1024;
    unit += 1;
  }
  return `${number(unit ? value : Math.round(value))} ${UNITS[unit]}`;
}

const FORMATS = {
  count: number,
  rate: (value) => `${number(value)}/s`,
  bytes: (value) => `${size(value)}/s`,
  seconds: (value) => `${number(Math.round(value * 10000) / 10)} ms`,
};

const cursor = element("div", { id: "cursor", hidden: "" }, element("output", {}));

// The plot that has the cursor, and how many seconds ago the cursor is at.
let pointed = null;

function showValue() {
  cursor.hidden = true;
  if (!pointed?.plot.isConnected) {
    return;
  }
  const { plot } = pointed;
  const values = plot.dataset.values.split(" ");
  const ago = Math.min(pointed.ago, values.length - 1);
  const value = values[values.length - 1 - ago];
  if (!value) {
    return;
  }
  const seconds = plot.viewBox.baseVal.width;
  const { left, top, width, height } = plot.getBoundingClientRect();
  cursor.hidden = false;
  cursor.style.left = `${scrollX + left + (1 - ago / seconds) * width}px`;
  cursor.style.top = `${scrollY + top}px`;
  cursor.style.height = `${height}px`;
  const when = ago ? `${ago} s ago` : "now";
  cursor.firstChild.textContent = `${FORMATS[plot.dataset.unit](Number(value))}, ${when}`;
}

function point(plot, ago) {
  const seconds = plot.viewBox.baseVal.width;
  pointed = { plot, ago: Math.max(0, Math.min(seconds - 1, Math.round(ago))) };
  showValue();
}

document.addEventListener("pointermove", (event) => {
  const plot = event.target.closest?.("svg[data-values]");
  if (plot) {
    const { right, width } = plot.getBoundingClientRect();
    point(plot, ((right - event.clientX) / width) * plot.viewBox.baseVal.width);
  } else if (pointed && pointed.plot !== document.activeElement) {
    pointed = null;
    showValue();
  }
});

document.addEventListener("focusin", (event) => {
  if (event.target.matches("svg[data-values]:focus-visible")) {
    point(event.target, 0);
  }
});

document.addEventListener("focusout", () => {
  pointed = null;
  showValue();
});

document.addEventListener("keydown", (event) => {
  const steps = { ArrowLeft: 1, ArrowRight: -1, PageUp: 30, PageDown: -30 };
  if (event.target === pointed?.plot && event.key in steps) {
    event.preventDefault();
    point(pointed.plot, pointed.ago + steps[event.key]);
  }
});

document.addEventListener("click", (event) => {
  const cell = event.target.closest?.("th:has(button)");
  if (cell) {
    const name = nameOf(cell.closest("table"));
    const column = cell.cellIndex;
    const before = sorting.get(name);
    // Numbers: the largest first.
    const first = cell.classList.contains("number") ? -1 : 1;
    sorting.set(name, { column, sign: before?.column === column ? -before.sign : first });
    show();
  }
});

document.addEventListener("input", (event) => {
  if (event.target.id === FILTER_ID) {
    show();
  }
});

document.body.append(cursor);
fetched = document.querySelector("main").cloneNode(true);
enhance(document.querySelector("main"));
setTimeout(refresh, INTERVAL_MS);
