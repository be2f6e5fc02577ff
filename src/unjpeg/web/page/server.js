// Talking to the server. It may forget a picture at any time: then it is sent again.

const POLL_MS = 400;
const PATIENCE_TRIES = 60;
const RETRY_MS = 2000;

export class Refused extends Error {
  constructor({ kind = "", message, salvageable = null }) {
    super(message);
    this.kind = kind;
    this.salvageable = salvageable;
  }
}

const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(signal.reason);
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

// One try. A busy server is a BusyError, one that does not answer a NetworkError.
async function once(address, options) {
  let response;
  try {
    response = await fetch(address, { ...options, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new Refused({ kind: "NetworkError", message: "The server does not answer. Is it still running?" });
  }
  if (response.ok) return response;
  const problem = await response.json().then((body) => body.error, () => null);
  const error = new Refused(problem ?? { message: `The server answered ${response.status}.` });
  error.retryMs = 1000 * Number(response.headers.get("retry-after")) || RETRY_MS;
  throw error;
}

// As often as it takes: a busy server is waited for as long as there is patience, a silent one for two minutes.
export async function request(address, options = {}, waits = () => {}) {
  for (let silent = 0; ; ) {
    try {
      return await once(address, options);
    } catch (error) {
      if (error.kind === "NetworkError" && options.patient && ++silent < PATIENCE_TRIES) waits("The server does not answer, trying again");
      else if (error.kind === "BusyError") waits("Waiting for the server");
      else throw error;
      await pause(error.retryMs ?? RETRY_MS, options.signal);
    }
  }
}

export async function models(width, height) {
  return (await request(`api/models?width=${width}&height=${height}`)).json();
}

// One upload at a time for each picture, and not given up when a setting changes.
export async function keyOf(picture) {
  picture.key ??= send(picture);
  const sending = picture.key;
  try {
    return await sending;
  } catch (error) {
    if (picture.key === sending) picture.key = null;
    throw error;
  }
}

async function send(picture) {
  const headers = { "content-type": "application/octet-stream" };
  const address = `api/pictures${picture.salvage ? "?salvage=true" : ""}`;
  const response = await request(address, { method: "POST", body: picture.file, headers }, picture.waits);
  picture.facts = await response.json();
  return picture.facts.key;
}

// Have the picture restored; tell how far it is.
export async function work(picture, look, signal, tell) {
  const options = { signal, patient: true };
  for (let gone = 0; ; ) {
    const key = await keyOf(picture);
    signal?.throwIfAborted();
    const address = `api/pictures/${key}/work`;
    try {
      let answer = await (await once(`${address}?${look}`, { method: "POST", signal })).json();
      while (answer.state === "waiting" || answer.state === "working") {
        tell(answer);
        await pause(POLL_MS, signal);
        answer = await (await request(address, options, picture.waits)).json();
      }
      if (answer.state === "done") return;
    } catch (error) {
      if (error.kind === "PictureGoneError" && ++gone < 5) picture.key = null;
      else if (error.kind === "BusyError" || error.kind === "NetworkError") {
        if (error.kind === "NetworkError" && ++gone > PATIENCE_TRIES) throw error;
        picture.waits(error.kind === "BusyError" ? "Waiting for the server" : "The server does not answer, trying again");
        await pause(error.retryMs ?? RETRY_MS, signal);
      } else throw error;
    }
  }
}

// A view, a file or a check of a picture, which is sent and restored again if it was forgotten.
export async function ask(picture, what, look, signal, tell = () => {}) {
  for (let tries = 1; ; tries++) {
    const key = await keyOf(picture);
    signal?.throwIfAborted();
    try {
      return await request(`api/pictures/${key}/${what}`, { signal }, picture.waits);
    } catch (error) {
      if (error.kind !== "PictureGoneError" || tries > 3) throw error;
      picture.key = null;
      if (look) await work(picture, look, signal, tell);
    }
  }
}

export function stopWork(picture) {
  picture.key?.then((key) => fetch(`api/pictures/${key}/work`, { method: "DELETE" })).catch(() => {});
}

export function forget(picture) {
  picture.key?.then((key) => fetch(`api/pictures/${key}`, { method: "DELETE", keepalive: true })).catch(() => {});
  picture.key = null;
}
