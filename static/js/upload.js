// Uploads from the browser: whole folders, checked before they travel, resumed after anything.
//
// Enhances every <form data-upload action="…/uploads/form">; without this module the same form
// posts its files the ordinary way. Inside the form:
//   [data-drop]      where files and folders are dropped
//   input[type=file] one or more (multiple, webkitdirectory); their names do not matter here
//   [data-files]     <ul>, filled with one <li data-state> per file
//   [data-progress]  shown while sending; contains <progress> and [data-numbers]
//   [data-status]    aria-live="polite": changes of stage and each quarter, nothing else
//   [data-cancel]    stops sending; what has arrived stays, and the same files go on later
//   [data-discard]   gives back what has arrived; offered after a stop
//   input[name=vector], input[name=csrfmiddlewaretoken]
// The texts below are replaced by data-text-… attributes of the form, as in
// data-text-chosen="{count} files, {size}."; words in braces are filled in.

import { filesOf, headerProblem, reasonToLeaveOut, withoutTopFolder } from "./upload/choose.js";
import { Refused, Stopped } from "./upload/http.js";
import { Sender } from "./upload/send.js";

const TEXTS = {
  chosen: "{count} files, {size}.",
  hidden: "left out: a hidden file",
  empty: "left out: it is empty",
  training: "left out: only needed to go on training",
  remove: "Remove {file}",
  checking: "Checking {file}",
  short: "{file} is too short to be a safetensors file. Save or copy it again.",
  header: "{file} is not a safetensors file: its header cannot be read. Save it with save_pretrained(..., safe_serialization=True).",
  cut: "{file} has {have} bytes and should have {want}: the copy is incomplete or damaged. Save or copy it again.",
  unreadable: "{file} cannot be read any more: it was moved or changed. Choose it again.",
  nothing: "Choose files or drop a folder first.",
  problem: "Remove the files that are marked, then upload.",
  announcing: "Preparing the upload",
  sending: "Uploading {count} files, {size}",
  resuming: "Going on where it stopped: {size} are there already",
  quarter: "{percent} % uploaded",
  numbers: "{done} of {total} · {speed}/s · {left}",
  seconds: "less than a minute left",
  minutes: "about {count} min left",
  hours: "about {count} h left",
  offline: "No connection. The upload goes on as soon as there is one.",
  waiting: "The site does not answer. Trying again in {count} s.",
  stopped: "Stopped. What has arrived is kept: press Upload to go on, now or later with the same files.",
  discarded: "Discarded.",
  failed: "The upload stopped: {reason} Press Upload to go on.",
  unanswered: "the site did not answer for several minutes.",
  finishing: "All files have arrived.",
};

const SPEED_OVER = 15000; // milliseconds

class UploadForm {
  constructor(form) {
    this.form = form;
    this.sending = false;
    this.sender = null;
    this.base = new URL(".", form.action);
    this.files = new Map(); // path → {path, file, leftOut, problem, row}
    this.lang = document.documentElement.lang || undefined;
    this.list = form.querySelector("[data-files]");
    this.panel = form.querySelector("[data-progress]");
    this.bar = this.panel?.matches("progress") ? this.panel : this.panel?.querySelector("progress");
    this.numbers = form.querySelector("[data-numbers]");
    this.status = form.querySelector("[data-status]");
    this.cancelButton = form.querySelector("[data-cancel]");
    this.discardButton = form.querySelector("[data-discard]");
    this.submitButton = form.querySelector("button:not([type]), button[type=submit], input[type=submit]");
    this.show(false);
    if (this.discardButton) this.discardButton.hidden = true;

    form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.upload();
    });
    for (const input of form.querySelectorAll("input[type=file]")) {
      input.required = false; // this module keeps the files; the input is emptied
      input.addEventListener("change", () => this.take(input));
    }
    this.takeDrops(form.querySelector("[data-drop]") ?? form);
    this.cancelButton?.addEventListener("click", () => this.sender?.stop());
    this.discardButton?.addEventListener("click", () => this.discard());
    addEventListener("beforeunload", (event) => {
      if (this.sending) event.preventDefault();
    });
    // Somebody may have chosen before this module was there.
    for (const input of form.querySelectorAll("input[type=file]")) this.take(input);
  }

  take(input) {
    const files = [...input.files];
    if (!files.length) return;
    this.add(files.map((file) => ({ path: file.webkitRelativePath || file.name, file })));
    input.value = "";
  }

  text(key, values = {}) {
    const own = this.form.dataset[`text${key[0].toUpperCase()}${key.slice(1)}`];
    return (own || TEXTS[key]).replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);
  }

  say(key, values) {
    this.sayPlain(this.text(key, values));
  }

  sayPlain(sentence) {
    if (this.status) this.status.textContent = sentence;
  }

  size(bytes) {
    const units = ["B", "kB", "MB", "GB", "TB"];
    let power = 0;
    while (bytes >= 999.5 && power < 4) {
      bytes /= 1000;
      power += 1;
    }
    const format = new Intl.NumberFormat(this.lang, { maximumFractionDigits: power > 1 ? 1 : 0 });
    return `${format.format(bytes)} ${units[power]}`;
  }

  show(sending) {
    if (this.panel) this.panel.hidden = !sending;
    if (this.cancelButton) this.cancelButton.hidden = !sending;
    if (this.submitButton) this.submitButton.disabled = sending;
    this.form.toggleAttribute("data-sending", sending);
  }

  takeDrops(zone) {
    const over = (is) => (event) => {
      if (!event.dataTransfer?.types.includes("Files")) return;
      event.preventDefault();
      zone.toggleAttribute("data-over", is);
    };
    zone.addEventListener("dragenter", over(true));
    zone.addEventListener("dragover", over(true));
    zone.addEventListener("dragleave", over(false));
    zone.addEventListener("drop", async (event) => {
      over(false)(event);
      // Entries are only there while the event is handled: collect them before the first await.
      const items = [...event.dataTransfer.items].filter((item) => item.kind === "file");
      const entries = items.map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
      const loose = [...event.dataTransfer.files];
      const found = entries.length
        ? (await Promise.all(entries.map((entry) => filesOf(entry)))).flat()
        : loose.map((file) => ({ path: file.name, file }));
      this.add(found);
    });
  }

  async add(found) {
    if (this.sending) return;
    if (this.discardButton) this.discardButton.hidden = true;
    const added = [];
    for (const { path, file } of withoutTopFolder(found)) {
      const entry = { path, file, leftOut: reasonToLeaveOut(path, file), problem: "", note: "" };
      this.files.set(path, entry);
      if (!entry.leftOut && path.endsWith(".safetensors")) added.push(entry);
      if (entry.leftOut) entry.note = this.text(entry.leftOut);
    }
    this.draw();
    this.checking = (async (before) => {
      await before;
      for (const entry of added) {
        this.say("checking", { file: entry.path });
        const problem = await headerProblem(entry.file).catch(() => ["unreadable", {}]);
        if (!problem) continue;
        const number = new Intl.NumberFormat(this.lang);
        const [key, { have, want }] = problem;
        entry.problem = this.text(key, {
          file: entry.path, have: number.format(have), want: number.format(want),
        });
        entry.note = entry.problem;
      }
      this.draw();
      this.summarise();
    })(this.checking);
    await this.checking;
  }

  sendable() {
    return [...this.files.values()].filter((entry) => !entry.leftOut);
  }

  summarise() {
    const files = this.sendable();
    const total = files.reduce((sum, { file }) => sum + file.size, 0);
    const problem = files.find((entry) => entry.problem);
    if (problem) this.sayPlain(problem.problem);
    else this.say("chosen", { count: files.length, size: this.size(total) });
  }

  draw() {
    if (!this.list) return;
    const rows = [...this.files.values()].map((entry) => {
      const row = document.createElement("li");
      row.dataset.state = entry.leftOut ? "left-out" : entry.problem ? "problem" : "ready";
      const cell = (name, text) => {
        const span = document.createElement("span");
        span.className = name;
        span.textContent = text;
        row.append(span, " ");
      };
      cell("file-name", entry.path);
      cell("file-size", this.size(entry.file.size));
      cell("file-note", entry.note);
      const remove = document.createElement("button");
      remove.type = "button";
      remove.className = "file-remove";
      remove.textContent = "×";
      remove.setAttribute("aria-label", this.text("remove", { file: entry.path }));
      remove.addEventListener("click", () => {
        if (this.sending) return;
        this.files.delete(entry.path);
        this.draw();
        this.summarise();
      });
      row.append(remove);
      entry.row = row;
      return row;
    });
    this.list.replaceChildren(...rows);
  }

  // --- sending ---

  async upload() {
    if (this.sending) return;
    this.sending = true;
    await this.checking;
    const files = this.sendable();
    const problem = !files.length ? "nothing" : files.some((entry) => entry.problem) && "problem";
    if (problem) {
      this.sending = false;
      this.say(problem);
      return;
    }
    this.show(true);
    this.sender = new Sender({
      files: new Map(files.map((entry) => [entry.path, entry])),
      vector: this.form.elements.vector?.value ?? "",
      base: this.base,
      csrf: this.form.elements.csrfmiddlewaretoken.value,
      page: this,
    });
    this.samples = [];
    this.spoken = 0;
    if (this.bar) this.bar.max = this.sender.total;
    const ticker = setInterval(() => this.tick(), 1000);
    try {
      const url = await this.sender.run();
      this.tick();
      this.say("finishing");
      this.sending = false;
      location.assign(url);
    } catch (error) {
      this.sending = false;
      this.show(false);
      const begun = Boolean(this.sender.draft);
      if (this.discardButton) this.discardButton.hidden = !begun;
      if (error instanceof Stopped) this.say("stopped");
      else if (error instanceof Refused && !begun) this.sayPlain(error.message);
      else this.say("failed", { reason: error.message });
    } finally {
      clearInterval(ticker);
    }
  }

  async discard() {
    if (this.sending) return;
    this.discardButton.hidden = true;
    try {
      await this.sender.discard();
    } catch (error) {
      this.discardButton.hidden = false;
      return this.say("failed", { reason: error.message });
    }
    this.files.clear();
    this.draw();
    this.say("discarded");
  }

  // --- showing ---

  mark(path, state) {
    const row = this.files.get(path)?.row;
    if (row) row.dataset.state = state;
  }

  tick() {
    const { total } = this.sender;
    const done = Math.min(total, this.sender.done);
    if (this.bar) this.bar.value = done;
    const now = performance.now();
    this.samples.push([now, done]);
    while (now - this.samples[0][0] > SPEED_OVER) this.samples.shift();
    const [then, before] = this.samples[0];
    const speed = now > then ? Math.max(0, (done - before) / ((now - then) / 1000)) : 0;
    if (this.numbers) {
      this.numbers.textContent = this.text("numbers", {
        done: this.size(done),
        total: this.size(total),
        speed: this.size(speed),
        left: speed ? this.timeLeft((total - done) / speed) : "…",
      });
    }
    const quarter = Math.floor((done / total) * 4);
    if (quarter > this.spoken && quarter < 4) this.say("quarter", { percent: quarter * 25 });
    this.spoken = Math.max(this.spoken, quarter);
  }

  timeLeft(seconds) {
    if (seconds < 60) return this.text("seconds");
    if (seconds < 5400) return this.text("minutes", { count: Math.ceil(seconds / 60) });
    return this.text("hours", { count: Math.round(seconds / 3600) });
  }
}

for (const form of document.querySelectorAll("form[data-upload]")) new UploadForm(form);
