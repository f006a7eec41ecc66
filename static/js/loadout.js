// The loadout follows the hand: sliders and numbers stay together, formula and forecast are fetched
// while one drags, and the address is always the link to what is shown. Without this script each
// change is a form that is sent.

import { say } from "./app.js";

const WAIT = 120; // milliseconds after the last movement
const form = document.getElementById("loadout");
const result = document.getElementById("result");
let timer = 0;
let asked = 0;
let running = null;

// What a form would send, without what only a button or the server needs.
function query() {
  const fields = new URLSearchParams();
  for (const [key, value] of new FormData(form)) {
    if (key === "csrfmiddlewaretoken" || key === "formula" || value === "") continue;
    fields.append(key, value);
  }
  return fields.toString();
}

async function refresh() {
  const turn = ++asked;
  running?.abort();
  running = new AbortController();
  const text = query();
  let answer;
  try {
    answer = await fetch(`${form.dataset.forecast}?${text}`, { signal: running.signal });
  } catch {
    return; // overtaken by the next one, or no network: the button still works
  }
  if (!answer.ok || turn !== asked) return;
  show(await answer.text());
  history.replaceState(null, "", `${form.dataset.here}?${text}`);
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

function soon() {
  clearTimeout(timer);
  timer = setTimeout(refresh, WAIT);
}

form.addEventListener("input", (event) => {
  const slot = event.target.closest("[data-slot]");
  if (event.target.id === "formula") return;
  if (slot && event.target.matches("[data-slider]")) {
    slot.querySelector("[data-number]").value = event.target.value;
  } else if (slot && event.target.matches("[data-number]")) {
    slot.querySelector("[data-slider]").value = event.target.value;
  } else if (slot && event.target.matches("[name=off]")) {
    slot.classList.toggle("slot-off", event.target.checked);
  }
  // Another target or method changes what the form itself asks for: that is a new page.
  if (event.target.id === "on" || event.target.id === "method") form.requestSubmit();
  else soon();
});
