// Requests that can be stopped, and pauses that end early when the connection is back.

export class Stopped extends Error {}

/** An answer that trying again does not change; its message is the server's sentence. */
export class Refused extends Error {}

/** Resolves after some seconds, or at once when the browser comes back online. */
export function pause(seconds, signal) {
  return new Promise((resolve, reject) => {
    const end = () => {
      clearTimeout(timer);
      removeEventListener("online", end);
      signal.removeEventListener("abort", end);
      if (signal.aborted) reject(new Stopped());
      else resolve();
    };
    if (signal.aborted) return reject(new Stopped());
    const timer = setTimeout(end, Math.min(seconds, 2 ** 20) * 1000);
    addEventListener("online", end);
    signal.addEventListener("abort", end);
  });
}

/** One PUT; answers {status, etag, error}; status 0 when there was no answer. */
export function put(url, body, headers, onSent, signal) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    const stop = () => xhr.abort();
    xhr.open("PUT", url);
    for (const [name, value] of Object.entries(headers)) xhr.setRequestHeader(name, value);
    xhr.upload.onprogress = (event) => onSent(event.loaded);
    xhr.onabort = () => reject(new Stopped());
    xhr.onloadend = () => {
      signal.removeEventListener("abort", stop);
      let error = "";
      try {
        error = JSON.parse(xhr.responseText).error ?? "";
      } catch {
        // Not ours: S3 answers in XML, a proxy in HTML.
      }
      const there = xhr.getAllResponseHeaders().toLowerCase().includes("etag:");
      resolve({ status: xhr.status, etag: there ? xhr.getResponseHeader("ETag") : "", error });
    };
    if (signal.aborted) return reject(new Stopped());
    signal.addEventListener("abort", stop);
    xhr.send(body);
  });
}

export async function sha256(buffer) {
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", buffer));
  return Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
