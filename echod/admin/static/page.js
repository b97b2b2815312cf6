// Fetches the page again and again, and takes over what has changed. Only nodes that differ
// are touched, so that a selection, the focus and what is read aloud stay as they are.
"use strict";

const PAUSE_MS = 2000;

function takeOver(old, fresh) {
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
  after.forEach((node, place) => {
    if (place < before.length) {
      takeOver(before[place], node);
    } else {
      old.append(document.importNode(node, true));
    }
  });
  before.slice(after.length).forEach((node) => node.remove());
}

async function look() {
  if (!document.hidden) {
    const state = document.querySelector(".state");
    try {
      const answer = await fetch("./", { cache: "no-store", signal: AbortSignal.timeout(10000) });
      const fresh = new DOMParser().parseFromString(await answer.text(), "text/html");
      const main = fresh.querySelector("main");
      if (!main) {
        throw new Error("no page");
      }
      takeOver(document.querySelector("main"), main);
    } catch {
      const since = state.dataset.since || new Date().toLocaleTimeString();
      state.dataset.since = since;
      state.className = "state warning";
      state.textContent = `no answer since ${since}`;
    }
  }
  setTimeout(look, PAUSE_MS);
}

setTimeout(look, PAUSE_MS);
