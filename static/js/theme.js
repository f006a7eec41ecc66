// Runs before the page is painted, so that a chosen theme does not flash. Not a module for that reason.
(() => {
  const root = document.documentElement;
  let chosen = null;
  try {
    chosen = localStorage.getItem("theme");
  } catch {
    // Storage may be switched off: then the system's theme holds.
  }
  if (chosen === "light" || chosen === "dark") root.dataset.theme = chosen;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.shown = root.dataset.theme || (dark ? "dark" : "light");
  root.classList.add("js");
})();
