// The loadout follows the hand: sliders and numbers stay together, formula and forecast are fetched
// while one drags, the inventory while one types, and the address is always the link to what is
// shown. Without this script each change is a form that is sent.

import { say } from "./app.js";

const WAIT = 120; // milliseconds after the last movement
const UNSAID = new Set(["csrfmiddlewaretoken", "formula", "searched"]);
const form = document.getElementById("loadout");
const result = document.getElementById("result");
const words = document.getElementById("inventory-q");
const list = document.getElementById("inventory-list");
const timers = {};
const running = {};

// What a form would send, without what only a button or the server needs. Coefficients belong to
// vectors by their order, so one that is empty while somebody types it keeps its place.
function query() {
  const fields = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    if (!UNSAID.has(key) && (value !== "" || key === "c")) fields.append(key, value);
  }
  return fields.toString();
}

// The page's part at `address` for what the form says now; null where a later question overtakes
// this one, or there is no network: the button still works.
async function ask(address) {
  running[address]?.abort();
  running[address] = new AbortController();
  const text = query();
  try {
    const answer = await fetch(`${address}?${text}`, { signal: running[address].signal });
    if (!answer.ok) return null;
    const html = await answer.text();
    history.replaceState(null, "", `${form.dataset.here}?${text}`);
    return html;
  } catch {
    return null;
  }
}

async function refresh() {
  const html = await ask(form.dataset.forecast);
  if (html !== null) show(html);
}

async function search() {
  clearTimeout(timers.search);
  const html = await ask(form.dataset.inventory);
  if (html === null) return;
  list.innerHTML = html;
  form.elements.searched.value = words.value.trim();
  say(list.querySelector("[data-found]").textContent);
}

// Keep the focus where it is: the name one types in stands inside of what is replaced.
function show(html) {
  const before = result.querySelector("[data-verdict]")?.dataset.verdict;
  const focused = result.contains(document.activeElement) ? document.activeElement.id : "";
  const position = focused ? document.activeElement.selectionStart : null;
  result.innerHTML = html;
  const again = focused && document.getElementById(focused);
  if (again) {
    again.focus();
    if (position !== null && again.setSelectionRange) again.setSelectionRange(position, position);
  }
  const formula = document.getElementById("formula");
  const shown = result.querySelector(".formula-text")?.textContent;
  if (formula && shown && document.activeElement !== formula) formula.value = shown;
  const after = result.querySelector("[data-verdict]")?.dataset.verdict;
  if (after && after !== before) say(after);
}

function soon(name, action) {
  clearTimeout(timers[name]);
  timers[name] = setTimeout(action, WAIT);
}

form.addEventListener("input", (event) => {
  const slot = event.target.closest("[data-slot]");
  if (event.target.id === "formula") return;
  if (event.target === words) {
    soon("search", search);
    return;
  }
  if (slot && event.target.matches("[data-slider]")) {
    slot.querySelector("[data-number]").value = event.target.value;
  } else if (slot && event.target.matches("[data-number]")) {
    slot.querySelector("[data-slider]").value = event.target.value;
  } else if (slot && event.target.matches("[name=off]")) {
    slot.classList.toggle("slot-off", event.target.checked);
  }
  // Another target or method changes what the form itself asks for: that is a new page.
  if (event.target.id === "on" || event.target.id === "method") form.requestSubmit();
  else soon("refresh", refresh);
});

// Return in the field of words presses the form's first button.
form.addEventListener("submit", (event) => {
  const button = event.submitter?.value;
  if (button !== "search" && !(button === "update" && document.activeElement === words)) return;
  event.preventDefault();
  search();
});
