// What every page has: theme, copy buttons, menus, the CSRF token for htmx, spoken progress.
// Listeners sit on the document, so that content swapped in later needs no set-up.

const root = document.documentElement;
const systemDark = matchMedia("(prefers-color-scheme: dark)");

// --- theme ---------------------------------------------------------------------------------

function showTheme(chosen) {
  if (chosen) root.dataset.theme = chosen;
  else delete root.dataset.theme;
  root.dataset.shown = chosen || (systemDark.matches ? "dark" : "light");
}

function toggleTheme() {
  const wanted = root.dataset.shown === "dark" ? "light" : "dark";
  // Choosing what the system already says goes back to following the system.
  const chosen = wanted === (systemDark.matches ? "dark" : "light") ? null : wanted;
  showTheme(chosen);
  try {
    if (chosen) localStorage.setItem("theme", chosen);
    else localStorage.removeItem("theme");
  } catch {
    // Kept for this page only.
  }
}

systemDark.addEventListener("change", () => showTheme(root.dataset.theme));

// --- speaking --------------------------------------------------------------------------------

export function say(text) {
  const live = document.getElementById("live");
  if (live && text && live.textContent !== text) live.textContent = text;
}

function sayProgress(scope) {
  const progress = scope.closest?.("[data-say]") || scope.querySelector?.("[data-say]");
  if (progress) say(progress.dataset.say);
}

// --- copying ---------------------------------------------------------------------------------

async function copy(button) {
  const text = button.dataset.copy || button.closest(".code")?.querySelector("code")?.textContent;
  if (!text) return;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Plain http has no clipboard API: copy by way of a field.
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    const copied = document.execCommand("copy");
    field.remove();
    button.focus();
    if (!copied) return;
  }
  say(button.dataset.done);
  button.classList.add("done");
  swapIcon(button, "check");
  setTimeout(() => {
    button.classList.remove("done");
    swapIcon(button, "copy");
    document.getElementById("live").textContent = ""; // so that a second copy is spoken too
  }, 1600);
}

function swapIcon(button, name) {
  const use = button.querySelector("use");
  use?.setAttribute("href", use.getAttribute("href").replace(/#.*/, `#${name}`));
}

// --- menus -----------------------------------------------------------------------------------

function closeMenus(except) {
  for (const menu of document.querySelectorAll("details[data-menu][open]")) {
    if (menu !== except) menu.open = false;
  }
}

document.addEventListener("click", (event) => {
  if (!(event.target instanceof Element)) return;
  closeMenus(event.target.closest("details[data-menu]"));
  if (event.target.closest("[data-theme-toggle]")) toggleTheme();
  const button = event.target.closest("[data-copy]");
  if (button) copy(button);
});

document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  const menu = document.querySelector("details[data-menu][open]");
  if (!menu) return;
  const inside = menu.contains(document.activeElement);
  menu.open = false;
  if (inside) menu.querySelector("summary").focus();
});

// --- htmx ------------------------------------------------------------------------------------

// The cookie is closed to scripts; every page has the token in the footer's language form.
document.addEventListener("htmx:configRequest", (event) => {
  const token = document.querySelector("input[name=csrfmiddlewaretoken]")?.value;
  if (token && event.detail.verb !== "get") event.detail.headers["X-CSRFToken"] = token;
});

document.addEventListener("htmx:load", (event) => sayProgress(event.detail.elt));
