// Fetches the page every two seconds and updates the nodes that differ. The others are not
// touched, so that a selection, the focus and the position of a screen reader stay.
"use strict";

const INTERVAL_MS = 2000;

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
    if (!fresh.hasAttribute(name)) {
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
      update(document.querySelector("main"), main);
    } catch {
      const since = state.dataset.since || new Date().toLocaleTimeString();
      state.dataset.since = since;
      state.className = "state warning";
      state.textContent = `no answer since ${since}`;
    }
  }
  setTimeout(refresh, INTERVAL_MS);
}

setTimeout(refresh, INTERVAL_MS);
