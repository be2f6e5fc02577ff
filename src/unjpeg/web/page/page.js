// The page: a queue of pictures that the server restores, one after another, and the one that is looked at.

import { Refused, ask, forget, keyOf, models, request, stopWork, work } from "./server.js";
import { storedZip } from "./zip.js";

const $ = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const stage = $("stage");
const layers = { before: $("before"), after: $("after"), residual: $("residual") };
const bases = Object.fromEntries(Object.entries(layers).map(([name, layer]) => [name, layer.querySelector(".base")]));
const details = Object.fromEntries(Object.entries(layers).map(([name, layer]) => [name, layer.querySelector(".detail")]));

const LIVE_DELAY_MS = 120;
const DETAIL_DELAY_MS = 200;
const MAX_SCALE = 32; // screen pixels for one of the picture's
const PIXELATED_FROM = 2;
const BASE_SIDE = 2600; // longer pictures are shown reduced, and what is looked at closely is fetched part by part
const THUMBNAIL_SIDE = 240;
const PREVIEW_SIDE = 1200;
const KEPT_BYTES = 1 << 29; // of finished files; beyond, they are made again when they are wanted

const CONSISTENCY_HINTS = {
  auto: "The result could have produced your file, unless an earlier JPEG did the damage.",
  strict: "The result could have produced your file, whatever the file looks like.",
  off: "Smoother at times, but it may contradict your file.",
};
const STATES = { waiting: "Waiting", done: "Done", failed: "Failed", cancelled: "Cancelled" };
const CANCEL = "cancelled";
const RESTART = "settings have changed";

let pictures = [];
let current = null;
let limits = null;
let lanes = 1; // pictures at work at once
let offered = [];
let usual = { strength: 1, quality: null, consistency: "auto", detail: 1, dither: false, model: null };

// What is asked for

function look({ strength, quality, consistency, detail, dither, model }) {
  const query = new URLSearchParams({ strength, consistency });
  if (quality) query.set("quality", quality);
  if (detail !== 1) query.set("detail", detail);
  if (dither) query.set("dither", true);
  if (model) query.set("model", model);
  return query.toString();
}

// What file is made of it: the same for all pictures.
const holdsInks = (picture) => ["CMYK", "YCCK"].includes(picture?.facts?.inspection.colour_space);

// The kind of file for a picture: of CMYK a TIFF, if the chosen one cannot hold it.
function chosenKind(picture) {
  let kind = $("kind").value;
  if (holdsInks(picture) && !/format=(tiff|jpeg)/.test(kind)) kind = kind.includes("bit_depth=16") ? "format=tiff&bit_depth=16" : "format=tiff";
  return kind + ($("tag").checked ? "&tag=true" : "");
}

// What of it makes the network run again.
const networkLook = ({ quality, consistency, model }) => `${quality} ${consistency === "strict"} ${model}`;

// The queue

function pump() {
  const active = pictures.filter((picture) => picture.state === "working");
  const waiting = pictures.filter((picture) => picture.state === "waiting");
  waiting.sort((a, b) => (b === current) - (a === current)); // what is looked at comes first
  const free = lanes - active.length;
  for (const [number, picture] of waiting.entries()) if (number < free || picture.isUrgent) run(picture);
  drawQueue();
}

async function run(picture) {
  const controller = (picture.controller = new AbortController());
  Object.assign(picture, { state: "working", isUrgent: false, words: "Opening", share: null, error: null });
  show(picture);
  try {
    await prepare(picture, controller.signal);
    picture.state = "done";
    if (picture === current) tell(`${picture.file.name} is restored. ${verdictOf(picture)}`);
    else tell(`${picture.file.name} is restored.`);
  } catch (error) {
    if (controller.signal.aborted) {
      if (controller.signal.reason !== RESTART) picture.state = "cancelled";
      else Object.assign(picture, { state: "waiting", isUrgent: true });
    } else {
      console.warn(error);
      Object.assign(picture, { state: "failed", error });
      tell(`${picture.file.name} could not be restored. ${wordsOf(error, picture)}`);
    }
  }
  if (!pictures.includes(picture)) return forget(picture), pump();
  show(picture);
  timesSoon();
  pump();
  if (picture === current) compare(), detailSoon();
}

const factsOf = ({ file, facts }) => (facts ? [{ title: "Name", text: file.name, tone: "plain" }, ...facts.facts] : []);

const verdictOf = (picture) => (picture.check ? `${picture.check.facts[0].title} ${picture.check.facts[0].text}` : "");

// Everything that a finished picture has: what the page shows of it must not wait for others at work.
async function prepare(picture, signal) {
  const say = (words) => (Object.assign(picture, { words, share: null }), show(picture));
  const progress = ({ state, share, seconds_left: left }) => {
    Object.assign(picture, state === "working" ? { words: "Restoring", share, left } : { words: "Waiting", share: null });
    show(picture);
  };
  picture.waits = say;
  if (limits && picture.file.size > limits.upload_bytes) {
    const most = Math.floor(limits.upload_bytes / 2 ** 20);
    throw new Refused({ message: `this file: has more than the ${most} MiB that this server takes` });
  }
  await keyOf(picture);
  signal.throwIfAborted();
  const { width, height, inspection } = picture.facts;
  picture.size = inspection.orientation >= 5 ? { width: height, height: width } : { width, height };
  picture.reduce = Math.ceil(Math.max(width, height) / BASE_SIDE);
  if (picture === current) list("facts", factsOf(picture)), settingsShown(), timesSoon();
  picture.before ??= await view(picture, "decoded", signal);
  show(picture);
  for (let wanted = null; wanted !== look(picture.settings); ) {
    wanted = look(picture.settings);
    const { strength } = picture.settings;
    if (picture.afterFor !== wanted) {
      say("Restoring");
      await work(picture, wanted, signal, progress);
      say("Fetching the result");
      const after = await view(picture, `restored?${wanted}`, signal, wanted);
      release(picture, "after");
      Object.assign(picture, { after, afterFor: wanted, afterStrength: strength });
      show(picture);
    }
    if (wanted !== look(picture.settings)) continue; // a setting has changed meanwhile
    if (picture.checkFor !== wanted) {
      say("Checking");
      picture.check = await (await ask(picture, `check?${wanted}`, wanted, signal, progress)).json();
      picture.checkFor = wanted;
    }
    if (!picture.wasDone && wanted === look(picture.settings)) {
      say("Saving");
      await fileOf(picture, chosenKind(picture), signal).catch((error) => {
        if (error.kind !== "OutputError") throw error; // the picture is restored: the download will say it
      });
    }
  }
  picture.wasDone = true;
}

// The address of a picture as the server shows it, reduced if it is large.
async function view(picture, what, signal, wanted = null) {
  const reduce = picture.reduce > 1 ? `${what.includes("?") ? "&" : "?"}reduce=${picture.reduce}` : "";
  return decodable(await (await ask(picture, what + reduce, wanted, signal)).blob(), signal);
}

async function decodable(blob, signal) {
  const url = URL.createObjectURL(blob);
  const ready = new Image();
  ready.src = url;
  try {
    await ready.decode();
    signal?.throwIfAborted();
    return url;
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
}

async function fileOf(picture, kind, signal, progress) {
  const wanted = look(picture.settings);
  const made = `${wanted}&${kind}`;
  if (picture.made !== made) {
    const response = await ask(picture, `file?${made}`, wanted, signal, progress);
    const note = JSON.parse(response.headers.get("unjpeg-note"));
    const blob = await response.blob();
    Object.assign(picture, { made, note, result: blob });
    let total = 0;
    for (const each of [picture, ...pictures]) {
      if (each.result && each !== picture) total += each.result.size;
      if (total + blob.size > KEPT_BYTES && each !== picture) Object.assign(each, { made: null, result: null });
    }
    return blob;
  }
  return picture.result;
}

function release(picture, name) {
  if (picture[name]) URL.revokeObjectURL(picture[name]);
  picture[name] = null;
}

// Settings of a picture have changed: its result is out of date at once, and made anew after the delay.
let soon = null;
function settle(picture, settings, delayMs = 0) {
  const again = networkLook(picture.settings) !== networkLook(settings);
  picture.settings = settings;
  const act = () => {
    if (again && picture.state === "working") picture.controller.abort(RESTART);
    pump();
  };
  if (picture.state !== "working" && (picture.state !== "failed" || picture.facts)) {
    Object.assign(picture, { state: "waiting", isUrgent: picture === current, share: null, error: null });
  }
  show(picture);
  clearTimeout(soon);
  if (delayMs) soon = setTimeout(act, delayMs);
  else act();
}

function cancel(picture) {
  stopWork(picture);
  if (picture.state === "working") picture.controller.abort(CANCEL);
  else picture.state = "cancelled";
  tell(`${picture.file.name} is cancelled.`);
  show(picture);
  pump();
}

function again(picture) {
  Object.assign(picture, { state: "waiting", isUrgent: picture === current, error: null, key: picture.error ? null : picture.key });
  show(picture);
  pump();
}

// Words

function wordsOf(error, picture) {
  const words = error instanceof Refused ? error.message : `Something went wrong here (${error.message}).`;
  if (!picture) return words;
  const said = words
    .replace(/^(this file|output stream):/, picture.file.name)
    .replace(/; allow more than ([\d,]+)\)$/, ", and your file has $1). Choose another kind of file.");
  return error.salvageable && !picture.salvage
    ? `${said.replace(/; salvage=true restores .*$/s, "")}. It is possible to restore ${error.salvageable}.`
    : said;
}

function timeOf(seconds) {
  if (seconds < 1) return "under 1 s";
  if (seconds < 20) return `about ${Math.round(seconds)} s`;
  if (seconds < 90) return `about ${Math.round(seconds / 5) * 5} s`;
  return `about ${Math.round(seconds / 60)} min`;
}

function progressOf({ state, words, share, left }) {
  if (state === "waiting") return "Waiting for its turn";
  if (share === null) return words;
  return `${words}, ${Math.floor(share * 100)} %${left ? `, ${timeOf(left)} left` : ""}`;
}

const sentence = (words) => `${words[0].toUpperCase()}${words.slice(1)}.`;
const tell = (words) => ($("status").textContent = words);

function complain(error) {
  console.warn(error);
  const line = document.createElement("p");
  line.textContent = wordsOf(error);
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.onclick = () => $("problem").replaceChildren();
  $("problem").replaceChildren(line, close);
}

function list(id, facts) {
  $(id).replaceChildren(
    ...facts.map(({ title, text, tone }) => {
      const pair = document.createElement("div");
      const term = document.createElement("dt");
      const words = document.createElement("dd");
      term.textContent = title;
      words.textContent = text;
      words.className = tone;
      pair.append(term, words);
      return pair;
    }),
  );
}

// Showing the picture that is looked at

const isFresh = (picture) => Boolean(picture.after) && picture.afterFor === look(picture.settings);

// The picture in the queue, and on the stage if it is looked at.
function show(picture) {
  drawItem(picture);
  if (picture === current) drawStage();
}

function put(image, url) {
  if ((image.getAttribute("src") ?? null) === url) return;
  if (url) image.src = url;
  else image.removeAttribute("src");
}

let drawn = null; // whose picture is on the stage, as fitted

function drawStage() {
  const picture = current;
  if (!picture) return;
  const { state } = picture;
  const before = picture.before ?? picture.preview ?? null;
  put(bases.before, before);
  put(bases.after, picture.after ?? null);
  if (!isFresh(picture)) hideDetail();
  $("veil").hidden = Boolean(picture.after);
  // Nearly right at once (the file's limits are not applied to it); the server's own follows.
  bases.after.style.opacity =
    picture.afterStrength > 0 && !isFresh(picture) ? Math.min(1, picture.settings.strength / picture.afterStrength) : 1;
  if (residualOf && !(residualOf.picture === picture && residualOf.wanted === residualLook())) dropResidual();

  const waits = state === "working" || state === "waiting";
  $("busy").hidden = !waits && !comparing;
  stage.setAttribute("aria-busy", waits ? "true" : "false");
  const words = waits ? progressOf(picture) : "Comparing";
  if ($("busy-words").textContent !== words) $("busy-words").textContent = words;
  $("busy-share").hidden = !waits || picture.share === null;
  $("busy-share").value = picture.share ?? 0;
  $("cancel").hidden = !waits;
  stage.querySelector(".tag.left").textContent = picture.before || !waits ? "Before" : "Before, opening";
  stage.querySelector(".tag.right").textContent = isFresh(picture)
    ? "After"
    : waits
      ? picture.after ? "After, being renewed" : "After, working on it"
      : "After, not made";

  const stopped = (state === "failed" || state === "cancelled") && !isFresh(picture);
  $("stopped").hidden = !stopped;
  if (stopped) {
    const { error } = picture;
    $("stopped").className = state;
    $("stopped-title").textContent = error ? "This picture could not be restored" : "Cancelled";
    $("stopped-words").textContent = error ? wordsOf(error, picture) : `${picture.file.name} was not restored.`;
    $("salvage").hidden = !error?.salvageable || picture.salvage;
    $("again").textContent = error ? "Try again" : "Restore it";
  }

  const checked = isFresh(picture) && picture.checkFor === picture.afterFor;
  const shown = checked ? picture.check : null; // never the last result's mark beside another result
  if (shown !== shownCheck) list("check", shown?.facts ?? []);
  shownCheck = shown;
  $("file").hidden = !picture.facts;
  $("check-waits").hidden = checked;
  $("check-waits").textContent = waits ? "Checked when it is restored." : "There is no result.";
  $("download").disabled = saving || stopped;
  const note = picture.made === `${look(picture.settings)}&${chosenKind(picture)}` ? picture.note : null;
  $("saved").hidden = !note;
  $("saved").textContent = note ? sentence(note) : "";
  if (drawn !== picture && (picture.size || before)) (drawn = picture), (fittedFor = null);
  if (fittedFor !== sizeKey()) (fittedFor = sizeKey()), fit();
  draw();
}

let shownCheck = null;
let fittedFor = null;
const sizeKey = () => `${current?.id} ${Boolean(current?.size)} ${bases.before.hasAttribute("src")}`;

// What was changed is fetched when it is looked at.

let residualOf = null; // picture, wanted, url
let comparing = null;
const residualLook = () => `${look(current.settings)}&gain=${$("gain").value}`;

function dropResidual() {
  if (residualOf) URL.revokeObjectURL(residualOf.url);
  residualOf = null;
  put(bases.residual, null);
}

async function compare() {
  const picture = current;
  if (chosen("view") !== "residual" || !picture || !isFresh(picture) || picture.state !== "done") return;
  const wanted = residualLook();
  if (residualOf?.picture === picture && residualOf.wanted === wanted) return;
  comparing?.abort();
  const controller = (comparing = new AbortController());
  drawStage();
  try {
    const url = await view(picture, `residual?${wanted}`, controller.signal, look(picture.settings));
    dropResidual();
    residualOf = { picture, wanted, url };
    put(bases.residual, url);
    hideDetail();
  } catch (error) {
    if (!controller.signal.aborted) complain(error);
  }
  if (comparing === controller) comparing = null;
  drawStage();
  transform();
}

// Large pictures are shown reduced; of what is looked at closely the pixels themselves are fetched.

let detailTimer = null;
let detailWork = null;
let detailOf = null;

function hideDetail() {
  clearTimeout(detailTimer);
  detailWork?.abort();
  detailOf = null;
  for (const image of Object.values(details)) {
    if (image.src) URL.revokeObjectURL(image.src);
    image.removeAttribute("src");
  }
}

function detailSoon() {
  clearTimeout(detailTimer);
  const picture = current;
  if (!picture?.size || picture.reduce === 1 || !picture.before) return;
  detailTimer = setTimeout(() => fetchDetail(picture), DETAIL_DELAY_MS);
}

async function fetchDetail(picture) {
  if (picture !== current || !isFresh(picture) || picture.state !== "done") return;
  const reduce = Math.max(1, Math.floor(1 / (scale * screen())));
  if (reduce >= picture.reduce) return hideDetail();
  const { width, height } = picture.size;
  const seen = { left: -left / scale, top: -top_ / scale, width: stage.clientWidth / scale, height: stage.clientHeight / scale };
  const [x0, x1] = [Math.max(0, seen.left), Math.min(width, seen.left + seen.width)];
  const [y0, y1] = [Math.max(0, seen.top), Math.min(height, seen.top + seen.height)];
  const kind = chosen("view") === "residual" ? residualLook() : look(picture.settings);
  const has = detailOf;
  if (has?.picture === picture && has.kind === kind && has.reduce <= reduce && has.x <= x0 && has.y <= y0 && has.x + has.width >= x1 && has.y + has.height >= y1)
    return;
  detailWork?.abort();
  const { signal } = (detailWork = new AbortController());
  const margin = 0.2;
  const snap = (value, most) => Math.min(most, Math.max(0, Math.round(value / reduce) * reduce));
  const x = snap(x0 - margin * seen.width, width);
  const y = snap(y0 - margin * seen.height, height);
  const area = { x, y, width: snap(x1 + margin * seen.width, width) - x, height: snap(y1 + margin * seen.height, height) - y };
  const part = `area=${x},${y},${area.width},${area.height}&reduce=${reduce}`;
  const wanted = look(picture.settings);
  const views = { before: `decoded?${part}`, after: `restored?${wanted}&${part}` };
  if (chosen("view") === "residual") views.residual = `residual?${kind}&${part}`;
  try {
    const urls = {};
    for (const [name, what] of Object.entries(views)) {
      urls[name] = await decodable(await (await ask(picture, what, wanted, signal)).blob(), signal);
    }
    hideDetail();
    detailOf = { picture, kind, reduce, ...area };
    for (const [name, url] of Object.entries(urls)) details[name].src = url;
    transform();
  } catch (error) {
    if (!signal.aborted) console.warn(error); // the reduced picture stays
  }
}

// Pictures

let count = 0;

function add(files) {
  const settings = current?.settings ?? usual;
  const added = [...files].map((file) => ({
    id: ++count,
    file,
    key: null,
    facts: null,
    size: null,
    reduce: 1,
    settings: { ...settings },
    state: "waiting",
    words: "",
    share: null,
    waits: () => {},
  }));
  if (!added.length) return;
  $("problem").replaceChildren();
  pictures.push(...added);
  for (const picture of added) makeItem(picture);
  select(pictures.length === added.length || added.length === 1 ? added[0] : current);
  preview(added);
  pump();
}

// Small copies, one picture after another: decoding large ones takes memory.
let previewing = Promise.resolve();
function preview(added) {
  for (const picture of added) {
    previewing = previewing.then(async () => {
      try {
        const bitmap = await createImageBitmap(picture.file);
        const copy = (most) => {
          const share = Math.min(1, most / Math.max(bitmap.width, bitmap.height));
          const canvas = document.createElement("canvas");
          canvas.width = Math.max(1, Math.round(bitmap.width * share));
          canvas.height = Math.max(1, Math.round(bitmap.height * share));
          canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
          return canvas;
        };
        const small = copy(THUMBNAIL_SIDE);
        small.className = "thumb";
        picture.item.querySelector(".thumb").replaceWith(small);
        if (picture === current && !picture.before) {
          const blob = await new Promise((done) => copy(PREVIEW_SIDE).toBlob(done, "image/jpeg", 0.9));
          if (picture === current && !picture.before) picture.preview = URL.createObjectURL(blob);
        }
        bitmap.close();
        show(picture);
      } catch {
        // The browser does not read this file; the server may.
        picture.item.querySelector(".thumb").textContent = "no preview";
      }
    });
  }
}

function select(picture) {
  const changed = current !== picture;
  current = picture;
  const any = Boolean(picture);
  $("welcome").hidden = any;
  for (const id of ["viewer", "panel", "add"]) $(id).hidden = !any;
  document.title = any ? `${picture.file.name} - unjpeg` : "unjpeg";
  drawQueue();
  if (!any) return;
  if (changed) {
    hideDetail();
    comparing?.abort();
    dropResidual();
    shownCheck = undefined;
    drawn = null;
    list("facts", factsOf(picture));
    settingsShown();
    timesSoon();
  }
  drawStage();
  compare();
}

function remove(picture) {
  const at = pictures.indexOf(picture);
  if (at < 0) return;
  pictures.splice(at, 1);
  picture.item.remove();
  if (picture.state === "working") stopWork(picture), picture.controller.abort(CANCEL);
  for (const name of ["before", "after", "preview"]) release(picture, name);
  forget(picture);
  if (picture === current) {
    select(pictures[Math.min(at, pictures.length - 1)] ?? null);
    (current ? stage : $("choose")).focus();
  }
  pump();
}

// Names of one camera differ at their ends.
function shortened(name) {
  const letters = [...name];
  return letters.length <= 17 ? name : `${letters.slice(0, 6).join("")}…${letters.slice(-9).join("")}`;
}

function makeItem(picture) {
  const item = (picture.item = document.createElement("li"));
  const pick = document.createElement("button");
  const thumb = document.createElement("span");
  const name = document.createElement("span");
  const state = document.createElement("span");
  const bar = document.createElement("progress");
  const cross = document.createElement("button");
  pick.type = cross.type = "button";
  pick.className = "pick";
  pick.title = picture.file.name;
  thumb.className = "thumb";
  name.className = "name";
  name.textContent = shortened(picture.file.name);
  state.className = "state";
  bar.setAttribute("aria-hidden", "true");
  pick.append(thumb, name, state);
  pick.onclick = () => select(picture);
  cross.className = "remove";
  cross.textContent = "×";
  cross.onclick = () => (["waiting", "working"].includes(picture.state) ? cancel(picture) : remove(picture));
  item.append(pick, bar, cross);
  $("film").append(item);
  drawItem(picture);
}

function drawItem(picture) {
  const { item, state, share } = picture;
  if (!item) return;
  item.className = state;
  const words = state === "working" ? (share === null ? picture.words : `Restoring ${Math.floor(share * 100)} %`) : STATES[state];
  const marks = { done: "✓ ", failed: "! " };
  const line = item.querySelector(".state");
  if (line.textContent !== (marks[state] ?? "") + words) line.textContent = (marks[state] ?? "") + words;
  const bar = item.querySelector("progress");
  bar.hidden = state !== "working";
  if (share === null) bar.removeAttribute("value");
  else bar.value = share;
  const gives = ["waiting", "working"].includes(state) ? "Cancel" : "Remove";
  item.querySelector(".remove").setAttribute("aria-label", `${gives} ${picture.file.name}`);
}

function drawQueue() {
  $("queue").hidden = $("download-all").hidden = pictures.length < 2;
  for (const picture of pictures) {
    const pick = picture.item.querySelector(".pick");
    if (picture === current) pick.setAttribute("aria-current", "true");
    else pick.removeAttribute("aria-current");
  }
  const number = (state) => pictures.filter((picture) => picture.state === state).length;
  const parts = [`${number("done")} of ${pictures.length} done`];
  if (number("failed")) parts.push(`${number("failed")} failed`);
  if (number("cancelled")) parts.push(`${number("cancelled")} cancelled`);
  $("queue-words").textContent = parts.join(", ");
  const differ = pictures.some((picture) => picture !== current && look(picture.settings) !== look(current?.settings ?? usual));
  $("for-all").hidden = pictures.length < 2 || !differ;
}

$("cancel").onclick = () => (cancel(current), stage.focus());
$("again").onclick = () => (again(current), stage.focus());
$("remove").onclick = () => remove(current);
$("salvage").onclick = () => {
  current.salvage = true;
  again(current);
  stage.focus();
};

// Divider, zoom, moving about

let divider = 0.5;
let scale = 1; // CSS pixels for one of the picture's
let left = 0;
let top_ = 0;
let fitted = true;

const screen = () => window.devicePixelRatio || 1;
const size = () =>
  current?.size ?? { width: bases.before.naturalWidth || 1, height: bases.before.naturalHeight || 1 };
const fitScale = () =>
  Math.min(stage.clientWidth / size().width, stage.clientHeight / size().height, MAX_SCALE / screen());

function setDivider(share) {
  divider = Math.min(1, Math.max(0, share));
  $("divider").value = Math.round(divider * 100);
  const before = Math.round(divider * 100);
  $("divider").setAttribute("aria-valuetext", `${before} % before, ${100 - before} % after`);
  draw();
}

function draw() {
  const view = chosen("view");
  const at = { compare: divider, before: 1, after: 0, residual: 0 }[view];
  layers.after.style.clipPath = `inset(0 0 0 ${at * 100}%)`;
  layers.residual.hidden = view !== "residual";
  $("handle").style.left = `${divider * 100}%`;
  const empty = !$("stopped").hidden && !bases.before.hasAttribute("src"); // nothing to compare or to zoom
  $("handle").hidden = $("divider").hidden = view !== "compare" || empty;
  stage.querySelector(".tag.left").hidden = at < 0.02 || view === "residual" || empty;
  stage.querySelector(".tag.right").hidden = at > 0.98 || view === "residual" || empty;
  layers.after.hidden = empty;
  for (const name of ["zoom-in", "zoom-out", "zoom-fit", "zoom-pixel"]) $(name).disabled = empty;
  $("gain-label").hidden = view !== "residual";
}

function transform() {
  const { width, height } = size();
  const across = width * scale;
  const down = height * scale;
  const kept = (offset, length, room) =>
    length <= room ? (room - length) / 2 : Math.min(0, Math.max(room - length, offset));
  left = kept(left, across, stage.clientWidth);
  top_ = kept(top_, down, stage.clientHeight);
  // On whole screen pixels: else one to one would be blurred.
  const [x, y] = [left, top_].map((offset) => Math.round(offset * screen()) / screen());
  for (const image of Object.values(bases)) {
    if (!image.hasAttribute("src")) continue;
    // A reduced copy is stretched to the picture's size, one that is not by nothing.
    if (image.naturalWidth === width) image.style.width = image.style.height = "";
    else Object.assign(image.style, { width: `${width}px`, height: `${height}px` });
    image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  }
  if (detailOf) {
    const at = `translate(${x + detailOf.x * scale}px, ${y + detailOf.y * scale}px) scale(${scale})`;
    const box = { width: `${detailOf.width}px`, height: `${detailOf.height}px`, transform: at };
    for (const image of Object.values(details)) Object.assign(image.style, box);
  }
  detailSoon();
  const ratio = scale * screen();
  stage.classList.toggle("pixels", ratio >= PIXELATED_FROM);
  stage.classList.toggle("zoomed", across > stage.clientWidth + 1 || down > stage.clientHeight + 1);
  $("zoom").textContent = !bases.before.hasAttribute("src") ? "" : `${ratio >= 0.1 ? Math.round(ratio * 100) : (ratio * 100).toFixed(1)} %`;
}

function fit() {
  fitted = true;
  stage.style.setProperty("--tall", size().height / size().width);
  scale = fitScale();
  transform();
}

function zoomTo(wanted, x = stage.clientWidth / 2, y = stage.clientHeight / 2) {
  const least = Math.min(fitScale(), 1 / screen());
  const next = Math.min(MAX_SCALE / screen(), Math.max(least, wanted));
  left = x - ((x - left) / scale) * next;
  top_ = y - ((y - top_) / scale) * next;
  scale = next;
  fitted = Math.abs(next - fitScale()) < 1e-6;
  transform();
}

const move = (x, y) => ((left += x), (top_ += y), transform());

const pointers = new Map();
let dragging = null; // "divider" or "picture"
const inStage = (event) => {
  const box = stage.getBoundingClientRect();
  return { x: event.clientX - box.left, y: event.clientY - box.top };
};

const onControl = (event) => event.target.closest?.("#busy, #stopped");

stage.addEventListener("pointerdown", (event) => {
  if (event.button || onControl(event)) return;
  pointers.set(event.pointerId, inStage(event));
  stage.setPointerCapture(event.pointerId);
  const onHandle = event.target.closest?.("#handle");
  const compares = chosen("view") === "compare";
  dragging = compares && (onHandle || !stage.classList.contains("zoomed")) ? "divider" : "picture";
  if (dragging === "divider" && event.pointerType === "mouse") setDivider(inStage(event).x / stage.clientWidth);
  stage.classList.toggle("panning", dragging === "picture");
});

stage.addEventListener("pointermove", (event) => {
  const old = pointers.get(event.pointerId);
  if (!old) return;
  const now = inStage(event);
  pointers.set(event.pointerId, now);
  if (pointers.size === 2) {
    const [other] = [...pointers].filter(([id]) => id !== event.pointerId).map(([, place]) => place);
    const apart = (place) => Math.hypot(place.x - other.x, place.y - other.y) || 1;
    zoomTo((scale * apart(now)) / apart(old), (now.x + other.x) / 2, (now.y + other.y) / 2);
    move((now.x - old.x) / 2, (now.y - old.y) / 2);
  } else if (dragging === "divider") {
    setDivider(now.x / stage.clientWidth);
  } else {
    move(now.x - old.x, now.y - old.y);
  }
});

for (const type of ["pointerup", "pointercancel"]) {
  stage.addEventListener(type, (event) => {
    pointers.delete(event.pointerId);
    if (pointers.size) dragging = "picture"; // one finger of two was lifted
    else stage.classList.remove("panning");
  });
}

stage.addEventListener(
  "wheel",
  (event) => {
    event.preventDefault();
    const { x, y } = inStage(event);
    zoomTo(scale * 2 ** (-event.deltaY / (event.deltaMode ? 10 : 300)), x, y);
  },
  { passive: false },
);

stage.addEventListener("dblclick", (event) => {
  if (onControl(event)) return;
  const { x, y } = inStage(event);
  if (fitted) zoomTo(Math.max(2 / screen(), fitScale() * 2), x, y);
  else fit();
});

stage.addEventListener("keydown", (event) => {
  if (event.target !== stage || event.ctrlKey || event.metaKey || event.altKey) return;
  const step = 64;
  const act = {
    "+": () => zoomTo(scale * 1.5),
    "=": () => zoomTo(scale * 1.5),
    "-": () => zoomTo(scale / 1.5),
    0: fit,
    1: () => zoomTo(1 / screen()),
    ArrowLeft: () => move(step, 0),
    ArrowRight: () => move(-step, 0),
    ArrowUp: () => move(0, step),
    ArrowDown: () => move(0, -step),
  }[event.key];
  if (!act) return;
  event.preventDefault();
  act();
});

$("divider").addEventListener("input", (event) => setDivider(event.target.value / 100));
$("zoom-in").onclick = () => zoomTo(scale * 1.5);
$("zoom-out").onclick = () => zoomTo(scale / 1.5);
$("zoom-fit").onclick = fit;
$("zoom-pixel").onclick = () => zoomTo(1 / screen());
new ResizeObserver(() => (fitted ? fit() : transform())).observe(stage);

for (const radio of document.querySelectorAll("input[name=view]")) {
  radio.addEventListener("change", () => {
    draw();
    compare();
    detailSoon();
  });
}
$("gain").onchange = compare;
for (const image of [...Object.values(bases)]) image.addEventListener("load", () => (fitted ? fit() : transform()));

// Settings: each picture has its own, new ones begin with those that are shown

function settingsShown() {
  const { strength, quality, consistency, detail, dither, model } = current.settings;
  for (const [name, share] of Object.entries({ strength, fine: detail })) {
    $(name).value = Math.round(share * 100);
    $(`${name}-value`).textContent = `${$(name).value} %`;
  }
  $("dither").checked = dither;
  $("quality-auto").checked = quality === null;
  document.querySelector(`input[name=consistency][value=${consistency}]`).checked = true;
  for (const radio of document.querySelectorAll("input[name=model]")) radio.checked = (radio.dataset.model || null) === model;
  qualityShown();
  consistencyShown();
}

function qualityShown() {
  const auto = $("quality-auto").checked;
  const read = current?.facts?.read_quality;
  $("quality").disabled = auto;
  if (auto && read) $("quality").value = read;
  else if (!auto && current?.settings.quality) $("quality").value = current.settings.quality;
  $("quality-value").textContent = auto && !read ? "" : $("quality").value;
}

function consistencyShown() {
  $("consistency-hint").textContent = CONSISTENCY_HINTS[chosen("consistency")];
}

function changed(change, delayMs = 0) {
  usual = { ...(current?.settings ?? usual), ...change };
  if (current) settle(current, usual, delayMs);
}

for (const [name, setting] of [["strength", "strength"], ["fine", "detail"]]) {
  $(name).addEventListener("input", () => {
    $(`${name}-value`).textContent = `${$(name).value} %`;
    changed({ [setting]: $(name).value / 100 }, LIVE_DELAY_MS);
  });
}
$("dither").onchange = () => changed({ dither: $("dither").checked });
$("quality").addEventListener("input", () => {
  $("quality-value").textContent = $("quality").value;
  changed({ quality: Number($("quality").value) }, LIVE_DELAY_MS);
});
$("quality-auto").addEventListener("change", () => {
  changed({ quality: $("quality-auto").checked ? null : Number($("quality").value) });
  qualityShown();
});
for (const radio of document.querySelectorAll("input[name=consistency]")) {
  radio.addEventListener("change", () => {
    consistencyShown();
    changed({ consistency: radio.value });
  });
}

$("for-all").onclick = () => {
  for (const picture of pictures) {
    if (look(picture.settings) !== look(current.settings)) settle(picture, { ...current.settings });
  }
  tell("All pictures are restored with these settings.");
  stage.focus();
};

// Models, and how long each takes here with this picture, as measured

const NAMES = { fast: "Fast", default: "Default", best: "Best" };
const ORDER = ["fast", "default", "best"];

function makeModels() {
  const rank = ({ name }) => (ORDER.indexOf(name) + ORDER.length + 1) % (ORDER.length + 1);
  const choices = offered
    .map((model, number) => ({ ...model, value: number ? model.name : "" }))
    .sort((a, b) => rank(a) - rank(b))
    .map(({ name, value }) => {
      const label = document.createElement("label");
      const radio = document.createElement("input");
      const words = document.createElement("span");
      const title = document.createElement("b");
      const time = document.createElement("small");
      Object.assign(radio, { type: "radio", name: "model", value: name, checked: value === "" });
      radio.dataset.model = value;
      radio.onchange = () => changed({ model: value || null });
      title.textContent = NAMES[name] ?? name;
      time.dataset.time = name;
      words.append(title, " ", time);
      label.append(radio, words);
      return label;
    });
  $("model-choices").replaceChildren(...choices);
  $("models").hidden = choices.length < 2;
}

let timesTimer = null;
function timesSoon(ms = 0) {
  clearTimeout(timesTimer);
  timesTimer = setTimeout(times, ms);
}

async function times() {
  const size = current?.size;
  const { width, height } = size ?? { width: 1000, height: 1000 };
  try {
    const now = await models(width, height);
    if (now.map(({ name }) => name).join() !== offered.map(({ name }) => name).join()) (offered = now), makeModels();
    for (const { name, seconds } of now) {
      const words = seconds === null ? "measuring" : size ? timeOf(seconds) : "";
      for (const time of document.querySelectorAll("[data-time]")) if (time.dataset.time === name) time.textContent = words;
    }
    if (now.some(({ seconds }) => seconds === null)) timesSoon(2000);
  } catch (error) {
    console.warn(error); // times are missing, nothing else
  }
}

// Downloads

const suffix = (kind) => ({ png: "png", tiff: "tif", webp: "webp", jpeg: "jpg", avif: "avif" })[new URLSearchParams(kind).get("format")];

function nameFor(picture, kind, taken = new Set()) {
  const stem = picture.file.name.replace(/\.[^.]*$/, "") || "picture";
  for (let number = 1; ; number++) {
    const name = `${stem}${number > 1 ? ` (${number})` : ""}.restored.${suffix(kind)}`;
    const folded = name.normalize().toLowerCase(); // some systems take names that differ in case for one
    if (!taken.has(folded)) return taken.add(folded), name;
  }
}

function save(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

$("kind").onchange = $("tag").onchange = drawStage;

let saving = false;

async function whileDisabled(button, action) {
  const words = button.textContent;
  saving = button.id === "download";
  button.disabled = true;
  try {
    await action((progress) => (button.textContent = progress));
  } finally {
    button.textContent = words;
    saving = button.disabled = false;
    drawStage();
  }
}

// Whether there is a result, once its turn has come. Throws what went wrong.
async function settled(picture) {
  while (picture.state === "waiting" || picture.state === "working") await new Promise((go) => setTimeout(go, 200));
  if (picture.error) throw picture.error;
  return picture.state === "done" && pictures.includes(picture);
}

$("download").onclick = ({ target }) =>
  whileDisabled(target, async (say) => {
    const picture = current;
    say("Preparing…");
    try {
      if (!(await settled(picture))) return;
      const kind = chosenKind(picture); // what it holds is known by now
      save(await fileOf(picture, kind, null, ({ share }) => say(`${Math.floor(share * 100)} %`)), nameFor(picture, kind));
      tell(`${nameFor(picture, kind)} is downloaded. ${picture.note ? sentence(picture.note) : ""}`);
    } catch (error) {
      complain(new Refused({ message: wordsOf(error, picture) }));
    }
  });

$("download-all").onclick = ({ target }) =>
  whileDisabled(target, async (say) => {
    const [all, taken] = [pictures.filter((picture) => picture.state !== "cancelled"), new Set()];
    const failed = [];
    async function* files() {
      for (const [number, picture] of all.entries()) {
        say(`${number + 1} of ${all.length}`);
        try {
          if (!(await settled(picture))) continue;
          const kind = chosenKind(picture);
          const blob = await fileOf(picture, kind);
          yield { name: nameFor(picture, kind, taken), blob, modified: new Date(picture.file.lastModified) };
        } catch (error) {
          failed.push(wordsOf(error, picture).replace(`${picture.file.name} `, `${picture.file.name}: `));
        }
      }
    }
    try {
      const zip = await storedZip(files());
      if (taken.size) save(zip, "unjpeg.zip");
      tell(`${taken.size} of ${all.length} pictures are in the zip.`);
      if (failed.length) complain(new Refused({ message: `Not in the zip: ${failed.join("; ")}` }));
    } catch (error) {
      tell("There is no zip.");
      complain(error);
    }
  });

// Where pictures come from

const choose = () => $("files").click();
$("choose").onclick = $("add").onclick = choose;
$("files").onchange = ({ target }) => {
  add(target.files);
  target.value = "";
};

for (const button of document.querySelectorAll("[data-example]")) {
  button.onclick = async () => {
    const name = button.dataset.example;
    try {
      add([new File([await (await request(`examples/${name}`)).blob()], name, { type: "image/jpeg" })]);
      stage.focus({ preventScroll: true });
    } catch (error) {
      complain(error);
    }
  };
}

const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragover", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  $("dropping").hidden = false;
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) $("dropping").hidden = true;
});
addEventListener("drop", (event) => {
  $("dropping").hidden = true;
  if (!holdsFiles(event)) return;
  event.preventDefault();
  add(event.dataTransfer.files);
});
addEventListener("paste", (event) => add(event.clipboardData.files));
addEventListener("pagehide", () => pictures.forEach(forget));

request("api/health").then(
  async (response) => {
    const health = await response.json();
    limits = health.limits;
    lanes = health.workers;
    pump();
  },
  () => {}, // the first picture will tell
);
times();
consistencyShown();
setDivider(0.5);
