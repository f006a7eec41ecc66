// A check or a build that runs is followed by server-sent events: the bar moves, nothing else on the page
// does, and at the end the section is put in place of the old one. Where events do not arrive the
// progress is polled; without this script the page reloads itself.

import { say } from "./app.js";

const TRIES = 3; // errors in a row before events are given up
const followed = new WeakSet();

function follow(place) {
  if (followed.has(place)) return;
  followed.add(place);
  if (!window.EventSource) return poll(place);
  const source = new EventSource(place.dataset.events);
  let errors = 0;
  source.addEventListener("progress", (event) => {
    errors = 0;
    show(place, JSON.parse(event.data));
  });
  source.addEventListener("ended", (event) => {
    source.close();
    finish(place, JSON.parse(event.data));
  });
  source.addEventListener("error", () => {
    errors += 1;
    if (source.readyState === EventSource.CLOSED || errors >= TRIES) {
      source.close();
      poll(place);
    }
  });
  addEventListener("pagehide", () => source.close(), { once: true });
}

function poll(place) {
  place.setAttribute("hx-get", place.dataset.poll);
  place.setAttribute("hx-trigger", "every 2s");
  place.setAttribute("hx-swap", "innerHTML");
  place.setAttribute("hx-select", ".progress");
  window.htmx?.process(place);
}

function show(place, job) {
  const bar = place.querySelector("progress");
  if (job.total) {
    bar.max = job.total;
    bar.value = job.done;
  } else {
    bar.removeAttribute("value");
  }
  const head = place.querySelector(".progress-head");
  head.querySelector("label").textContent = job.label;
  let detail = head.querySelector("span");
  if (!detail) {
    detail = document.createElement("span");
    detail.className = "soft";
    head.append(detail);
  }
  detail.textContent = [job.detail, job.left].filter(Boolean).join(" · ");
  say(job.live);
}

async function finish(place, job) {
  let html = "";
  try {
    const answer = await fetch(place.dataset.section + location.search);
    if (answer.ok) html = await answer.text();
  } catch {
    // The page itself is asked for instead.
  }
  const old = document.getElementById(place.dataset.into);
  if (!html || !old) return location.reload();
  const heading = place.closest("section").querySelector("h2").id;
  const inside = old.contains(document.activeElement);
  old.outerHTML = html;
  if (inside) document.getElementById(heading)?.focus({ preventScroll: true });
  say(job.said);
  begin();
}

function begin() {
  for (const place of document.querySelectorAll("[data-events]")) follow(place);
}

begin();
