// One upload: finds or opens the draft, sends the missing parts, completes each file.

import { nameOfChoice } from "./choose.js";
import { Refused, Stopped, pause, put, sha256 } from "./http.js";

const PARALLEL = 3; // parts on their way at once
const ATTEMPTS = 10; // of one request, with growing pauses: about four minutes
const LONGEST_PAUSE = 30; // seconds

const kept = new Map(); // for when localStorage is closed: then nothing outlives a reload
const memory = {
  get(name) {
    try { return localStorage.getItem(name) ?? kept.get(name); } catch { return kept.get(name); }
  },
  set(name, value) {
    kept.set(name, value);
    try { localStorage.setItem(name, value); } catch { /* kept has it */ }
  },
  forget(name) {
    kept.delete(name);
    try { localStorage.removeItem(name); } catch { /* as above */ }
  },
};

export class Sender {
  /**
   * files: Map of path → {path, file}; page: {say(key, values), text(key, values), size(bytes),
   * mark(path, state)}; base: the URL of uploads/; csrf: the form's token.
   */
  constructor({ files, vector, base, csrf, page }) {
    Object.assign(this, { files, vector, base, csrf, page });
    this.stopper = new AbortController();
    this.signal = this.stopper.signal;
    this.choice = nameOfChoice([...files.values()], vector);
    this.total = [...files.values()].reduce((sum, { file }) => sum + file.size, 0);
    this.arrived = 0; // bytes of whole parts
    this.flying = new Map(); // part → bytes of it that were sent
    this.urls = new Map();
    this.draft = null;
  }

  get done() {
    return [...this.flying.values()].reduce((sum, bytes) => sum + bytes, this.arrived);
  }

  stop() {
    this.stopper.abort();
  }

  /** Send everything; resolves to the address of the draft's page. */
  async run() {
    this.page.say("announcing");
    this.draft = await this.findDraft();
    if (!this.draft) {
      const announced = [...this.files.values()].map(({ path, file }) => ({ path, size: file.size }));
      this.draft = await this.ask("", "POST", { files: announced, vector: this.vector });
      memory.set(this.choice, this.draft.draft);
    }
    const queue = this.plan();
    if (this.arrived) this.page.say("resuming", { size: this.page.size(this.arrived) });
    else this.page.say("sending", { count: this.files.size, size: this.page.size(this.total) });
    const worker = async () => {
      for (let task = queue.shift(); task; task = queue.shift()) await this.sendPart(task);
    };
    try {
      await Promise.all(Array.from({ length: PARALLEL }, worker));
    } catch (error) {
      this.stop(); // the other workers too
      throw error;
    }
    memory.forget(this.choice);
    return this.draft.url;
  }

  /** Give back what has arrived. */
  async discard() {
    this.stopper = new AbortController();
    this.signal = this.stopper.signal;
    await this.ask(`drafts/${this.draft.draft}`, "DELETE").catch((error) => {
      if (!(error instanceof Refused)) throw error; // it is gone already
    });
    memory.forget(this.choice);
  }

  /** The draft that was begun with exactly these files, if the site still has it. */
  async findDraft() {
    const id = memory.get(this.choice);
    if (!id) return null;
    try {
      const draft = await this.ask(`drafts/${id}`, "GET");
      const same = draft.uploads.length === this.files.size &&
        draft.uploads.every(({ path, size }) => this.files.get(path)?.file.size === size);
      if (same && draft.state !== "refused") return draft;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
    }
    memory.forget(this.choice);
    return null;
  }

  /** What is left to do: a task for each missing part. */
  plan() {
    const queue = [];
    this.keepUrls();
    for (const upload of this.draft.uploads) {
      const left = { upload, parts: [], waiting: upload.parts.length };
      this.arrived += upload.size - upload.parts.reduce((sum, part) => sum + part.size, 0);
      if (left.waiting) for (const part of upload.parts) queue.push({ left, part });
      else if (upload.state === "open") queue.push({ left, part: null });
      else this.page.mark(upload.path, "done");
    }
    return queue;
  }

  keepUrls() {
    for (const upload of this.draft.uploads) {
      for (const part of upload.parts) this.urls.set(`${upload.id}/${part.number}`, part.url);
    }
  }

  async sendPart({ left, part }) {
    const { upload } = left;
    if (part) {
      this.page.mark(upload.path, "sending");
      const etag = await this.putPart(upload, part);
      left.parts.push({ number: part.number, etag });
      left.waiting -= 1;
    }
    if (left.waiting === 0) {
      await this.ask(upload.complete, "POST", { parts: left.parts });
      this.page.mark(upload.path, "done");
    }
  }

  /** Send one part, however often it takes; resolves to its ETag, or "" when that is hidden. */
  async putPart(upload, part) {
    const key = `${upload.id}/${part.number}`;
    const start = (part.number - 1) * upload.part_size;
    const slice = this.files.get(upload.path).file.slice(start, start + part.size);
    for (let attempt = 0; ; attempt += 1) {
      const url = new URL(this.urls.get(key), this.base);
      const ours = url.origin === this.base.origin;
      const { body, headers } = await this.bodyOf(slice, upload, ours);
      const onSent = (bytes) => this.flying.set(key, Math.min(bytes, part.size));
      const answer = await put(url, body, headers, onSent, this.signal);
      this.flying.delete(key);
      if (answer.status >= 200 && answer.status < 300) {
        this.arrived += part.size;
        return answer.etag;
      }
      // No answer: it may be the file that cannot be read any more, the browser does not say.
      if (answer.status === 0) await this.read(slice.slice(0, 1), upload);
      if (ours && [404, 409, 413].includes(answer.status)) {
        throw new Refused(answer.error || `HTTP ${answer.status}.`);
      }
      await this.pauseBeforeNext(attempt, answer.error);
      if (answer.status === 403 || !ours) {
        // The address has expired, or S3 refuses it: ask for a fresh one.
        this.draft = await this.ask(`drafts/${this.draft.draft}`, "GET");
        this.keepUrls();
        const now = this.draft.uploads.find(({ id }) => id === upload.id);
        if (now?.received.includes(part.number)) {
          this.arrived += part.size;
          return "";
        }
      }
    }
  }

  async bodyOf(slice, upload, ours) {
    // An address signed for S3 takes no header that was not signed; crypto.subtle needs https.
    if (!ours || !globalThis.crypto?.subtle) return { body: slice, headers: {} };
    const body = await this.read(slice, upload);
    return { body, headers: { "X-Part-SHA256": await sha256(body) } };
  }

  read(slice, upload) {
    return slice.arrayBuffer().catch(() => {
      throw new Error(this.page.text("unreadable", { file: upload.path }));
    });
  }

  async pauseBeforeNext(attempt, reason) {
    if (!navigator.onLine) {
      this.page.say("offline");
      await pause(Infinity, this.signal);
      return;
    }
    if (attempt + 1 >= ATTEMPTS) throw new Error(reason || this.page.text("unanswered"));
    const seconds = Math.min(LONGEST_PAUSE, 2 ** attempt) * (0.75 + Math.random() / 2);
    if (attempt > 1) this.page.say("waiting", { count: Math.ceil(seconds) });
    await pause(seconds, this.signal);
  }

  /** A request of ours that is answered in JSON; repeated until it is answered. */
  async ask(path, method, data) {
    const headers = { Accept: "application/json" };
    if (method !== "GET") headers["X-CSRFToken"] = this.csrf;
    if (data) headers["Content-Type"] = "application/json";
    const options = { method, headers, signal: this.signal, credentials: "same-origin" };
    if (data) options.body = JSON.stringify(data);
    for (let attempt = 0; ; attempt += 1) {
      const response = await fetch(new URL(path, this.base), options).catch(() => null);
      if (this.signal.aborted) throw new Stopped();
      if (response && response.status < 500) {
        if (response.status === 204) return null;
        const answer = await response.json().catch(() => ({}));
        if (response.ok) return answer;
        throw new Refused(answer.error || `HTTP ${response.status}.`);
      }
      await this.pauseBeforeNext(attempt, "");
    }
  }
}
