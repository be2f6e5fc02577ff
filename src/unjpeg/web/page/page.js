// The page. Pictures are sent once and rendered by the server; it may forget one at any time, and then it is sent again.

import { storedZip } from "./zip.js";

const $ = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name=${name}]:checked`).value;
const stage = $("stage");
const layers = { before: $("before"), after: $("after"), residual: $("residual") };
const images = Object.fromEntries(Object.entries(layers).map(([name, layer]) => [name, layer.querySelector("img")]));

const LIVE_DELAY_MS = 120;
const MAX_TRIES = 30;
const MAX_SCALE = 32; // screen pixels for one of the picture's
const PIXELATED_FROM = 2;

const CONSISTENCY_HINTS = {
  auto: "The result could have produced your file, unless an earlier JPEG did the damage.",
  strict: "The result could have produced your file, whatever the file looks like.",
  off: "Smoother at times, but it may contradict your file.",
};

let pictures = [];
let current = null;
let limits = null;
let work = null; // aborts what the current picture's last change asked for

// Talking to the server

class Refused extends Error {
  constructor(kind, message) {
    super(message);
    this.kind = kind;
  }
}

const pause = (ms, signal) =>
  new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, ms);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });

async function request(address, options = {}) {
  for (let tries = 1; ; tries++) {
    let response;
    try {
      response = await fetch(address, { ...options, cache: "no-store" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused("Network", "The server does not answer. Is it still running?");
    }
    if (response.ok) return response;
    const problem = await response.json().then((body) => body.error, () => null);
    if (response.status === 503 && tries < MAX_TRIES) {
      busy("Waiting for the server");
      await pause(1000 * (Number(response.headers.get("retry-after")) || 2), options.signal);
      continue;
    }
    throw new Refused(problem?.kind ?? "", problem?.message ?? `The server answered ${response.status}.`);
  }
}

async function send(picture) {
  if (limits && picture.file.size > limits.upload_bytes) {
    const most = Math.floor(limits.upload_bytes / 2 ** 20);
    throw new Refused("TooLargeError", `this file: has more than the ${most} MiB that this server takes`);
  }
  const headers = { "content-type": "application/octet-stream" };
  const response = await request(`api/pictures${picture.salvage ? "?salvage=true" : ""}`, { method: "POST", body: picture.file, headers });
  picture.facts = await response.json();
  return picture.facts.key;
}

// One upload at a time for each picture, and not given up when a slider moves.
async function keyOf(picture) {
  picture.key ??= send(picture);
  try {
    return await picture.key;
  } catch (error) {
    picture.key = null;
    throw error;
  }
}

async function ask(picture, what, signal) {
  for (let tries = 1; ; tries++) {
    const key = await keyOf(picture);
    signal?.throwIfAborted();
    try {
      return await request(`api/pictures/${key}/${what}`, { signal });
    } catch (error) {
      if (error.kind !== "PictureGoneError" || tries > 2) throw error;
      picture.key = null;
    }
  }
}

function forget(picture) {
  picture.key?.then((key) => fetch(`api/pictures/${key}`, { method: "DELETE", keepalive: true })).catch(() => {});
  picture.key = null;
}

// What is asked for

function look() {
  const query = new URLSearchParams({ strength: $("strength").value / 100, consistency: chosen("consistency") });
  if (!$("quality-auto").checked) query.set("quality", $("quality").value);
  return query.toString();
}

// Showing

async function put(name, response, signal) {
  const url = URL.createObjectURL(await response.blob());
  const ready = new Image();
  ready.src = url;
  try {
    await ready.decode();
    signal.throwIfAborted();
  } catch (error) {
    URL.revokeObjectURL(url);
    throw error;
  }
  take(name, url);
}

function take(name, url) {
  const image = images[name];
  if (image.src) URL.revokeObjectURL(image.src);
  if (url) image.src = url;
  else image.removeAttribute("src");
}

// What the layers show of which picture, and for which settings.
const nothing = { picture: null, facts: false, look: null, residual: null, strength: 1 };
let shown = { ...nothing };

async function refresh() {
  work?.abort();
  const picture = current;
  if (!picture) return;
  const controller = new AbortController();
  const { signal } = (work = controller);
  const wanted = look();
  const strength = $("strength").value / 100;
  try {
    if (shown.picture !== picture) {
      shown = { ...nothing, picture };
      for (const name of Object.keys(images)) take(name, null);
      list("facts", []);
      list("check", []);
    }
    if (!shown.facts) {
      busy("Opening");
      await keyOf(picture);
      signal.throwIfAborted();
      list("facts", picture.facts.facts);
      qualityShown();
      shown.facts = true;
    }
    if (!images.before.src) {
      await put("before", await ask(picture, "decoded", signal), signal);
      fit();
    }
    if (shown.look !== wanted) {
      busy("Restoring");
      await put("after", await ask(picture, `restored?${wanted}`, signal), signal);
      Object.assign(shown, { look: wanted, strength });
      images.after.style.opacity = 1;
      transform();
    }
    if (chosen("view") === "residual") {
      const residual = `${wanted}&gain=${$("gain").value}`;
      if (shown.residual !== residual) {
        busy("Comparing");
        await put("residual", await ask(picture, `residual?${residual}`, signal), signal);
        shown.residual = residual;
        transform();
      }
    }
    busy(null);
    if (picture.checkedFor !== wanted) {
      picture.check = await (await ask(picture, `check?${wanted}`, signal)).json();
      picture.checkedFor = wanted;
    }
    list("check", picture.check.facts);
    const verdict = picture.check.facts[0];
    tell(`${picture.file.name} is restored. ${verdict.title} ${verdict.text}`);
  } catch (error) {
    if (signal.aborted) return;
    busy(null);
    shown.picture = null;
    complain(error, picture);
    if (!picture.checkedFor) remove(picture); // never worked: there is nothing to show
  }
}

let soon = null;
function refreshSoon() {
  clearTimeout(soon);
  soon = setTimeout(refresh, LIVE_DELAY_MS);
}

function busy(words) {
  $("busy").hidden = !words;
  stage.setAttribute("aria-busy", words ? "true" : "false");
  if (words && $("busy").lastElementChild.textContent !== words) $("busy").lastElementChild.textContent = words;
}

const tell = (words) => ($("status").textContent = words);

function complain(error, picture) {
  console.warn(error);
  const words = error instanceof Refused ? error.message : `Something went wrong here (${error.message}).`;
  const line = document.createElement("p");
  line.textContent = picture ? words.replace(/^this file:/, picture.file.name) : words;
  const close = document.createElement("button");
  close.type = "button";
  close.textContent = "Close";
  close.onclick = () => $("problem").replaceChildren();
  const before = [...$("problem").querySelectorAll("p")].filter(({ textContent }) => textContent !== line.textContent);
  $("problem").replaceChildren(...before, line, close);
  if (picture && !picture.salvage && words.includes("(--salvage)")) {
    line.textContent = line.textContent.replace("salvage (--salvage) restores", "it is possible to restore");
    const salvage = document.createElement("button");
    salvage.type = "button";
    salvage.textContent = "Restore what is left";
    salvage.onclick = () => {
      picture.salvage = true;
      $("problem").replaceChildren();
      select(picture);
    };
    close.before(salvage);
  }
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

// Pictures

function add(files) {
  const added = [...files].map((file) => ({ file, key: null, thumbnail: URL.createObjectURL(file) }));
  if (!added.length) return;
  $("problem").replaceChildren();
  pictures.push(...added);
  select(added[0]);
}

function select(picture) {
  current = picture;
  const any = Boolean(picture);
  $("welcome").hidden = any;
  for (const id of ["viewer", "panel", "add"]) $(id).hidden = !any;
  document.title = any ? `${picture.file.name} - unjpeg` : "unjpeg";
  drawFilm();
  if (any) refresh();
}

function remove(picture) {
  const at = pictures.indexOf(picture);
  if (at < 0) return;
  pictures.splice(at, 1);
  URL.revokeObjectURL(picture.thumbnail);
  forget(picture);
  if (picture !== current) return drawFilm();
  work?.abort();
  busy(null);
  shown.picture = null;
  select(pictures[Math.min(at, pictures.length - 1)] ?? null);
  (current ? stage : $("choose")).focus();
}

function drawFilm() {
  $("film").hidden = pictures.length < 2;
  $("download-all").hidden = pictures.length < 2;
  $("film").replaceChildren(
    ...pictures.map((picture) => {
      const item = document.createElement("li");
      const pick = document.createElement("button");
      const image = new Image();
      const name = document.createElement("span");
      const cross = document.createElement("button");
      pick.type = cross.type = "button";
      pick.className = "pick";
      if (picture === current) pick.setAttribute("aria-current", "true");
      image.src = picture.thumbnail;
      image.alt = "";
      name.className = "name";
      name.textContent = picture.file.name;
      pick.append(image, name);
      pick.onclick = () => {
        select(picture);
        $("film").querySelector("[aria-current]")?.focus();
      };
      cross.className = "remove";
      cross.textContent = "×";
      cross.setAttribute("aria-label", `Remove ${picture.file.name}`);
      cross.onclick = () => remove(picture);
      item.append(pick, cross);
      return item;
    }),
  );
}

// Divider, zoom, moving about

let divider = 0.5;
let scale = 1; // CSS pixels for one of the picture's
let left = 0;
let top_ = 0;
let fitted = true;

const screen = () => window.devicePixelRatio || 1;
const size = () => ({ width: images.before.naturalWidth || 1, height: images.before.naturalHeight || 1 });
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
  $("handle").hidden = $("divider").hidden = view !== "compare";
  stage.querySelector(".tag.left").hidden = at < 0.02 || view === "residual";
  stage.querySelector(".tag.right").hidden = at > 0.98 || view === "residual";
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
  for (const image of Object.values(images)) image.style.transform = `translate(${x}px, ${y}px) scale(${scale})`;
  const ratio = scale * screen();
  stage.classList.toggle("pixels", ratio >= PIXELATED_FROM);
  stage.classList.toggle("zoomed", across > stage.clientWidth + 1 || down > stage.clientHeight + 1);
  $("zoom").textContent = `${ratio >= 0.1 ? Math.round(ratio * 100) : (ratio * 100).toFixed(1)} %`;
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

stage.addEventListener("pointerdown", (event) => {
  if (event.button) return;
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
    if (radio.value === "residual") refresh();
  });
}
$("gain").onchange = refresh;

// Settings

function qualityShown() {
  const auto = $("quality-auto").checked;
  const read = current?.facts?.read_quality;
  $("quality").disabled = auto;
  if (auto && read) $("quality").value = read;
  $("quality-value").textContent = auto && !read ? "" : $("quality").value;
}

$("strength").addEventListener("input", () => {
  const strength = $("strength").value / 100;
  $("strength-value").textContent = `${$("strength").value} %`;
  // Nearly right at once (the file's limits are not applied to it); the server's own follows.
  images.after.style.opacity = shown.strength > 0 ? Math.min(1, strength / shown.strength) : 1;
  refreshSoon();
});
$("quality").addEventListener("input", () => {
  qualityShown();
  refreshSoon();
});
$("quality-auto").addEventListener("change", () => {
  qualityShown();
  refresh();
});

function consistencyShown() {
  $("consistency-hint").textContent = CONSISTENCY_HINTS[chosen("consistency")];
}
for (const radio of document.querySelectorAll("input[name=consistency]")) {
  radio.addEventListener("change", () => {
    consistencyShown();
    refresh();
  });
}

// Downloads

const suffix = (kind) => ({ png: "png", tiff: "tif", webp: "webp", jpeg: "jpg" })[new URLSearchParams(kind).get("format")];

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

async function whileDisabled(button, action) {
  const words = button.textContent;
  button.disabled = true;
  try {
    await action((progress) => (button.textContent = progress));
  } finally {
    button.textContent = words;
    button.disabled = false;
    busy(null); // what a wait for the server said
  }
}

$("download").onclick = ({ target }) =>
  whileDisabled(target, async (say) => {
    const [picture, kind] = [current, $("kind").value];
    say("Preparing…");
    try {
      save(await (await ask(picture, `file?${look()}&${kind}`)).blob(), nameFor(picture, kind));
      tell(`${nameFor(picture, kind)} is downloaded.`);
    } catch (error) {
      complain(error, picture);
    }
  });

$("download-all").onclick = ({ target }) =>
  whileDisabled(target, async (say) => {
    const [all, kind, query, taken] = [[...pictures], $("kind").value, look(), new Set()];
    const failed = [];
    async function* files() {
      for (const [number, picture] of all.entries()) {
        say(`${number + 1} of ${all.length}`);
        tell(`Restoring ${number + 1} of ${all.length}.`);
        try {
          const blob = await (await ask(picture, `file?${query}&${kind}`)).blob();
          yield { name: nameFor(picture, kind, taken), blob, modified: new Date(picture.file.lastModified) };
        } catch (error) {
          failed.push(`${picture.file.name} (${error.message.replace(/^this file: /, "")})`);
        }
      }
    }
    try {
      const zip = await storedZip(files());
      if (taken.size) save(zip, "unjpeg.zip");
      tell(`${taken.size} of ${all.length} pictures are in the zip.`);
      if (failed.length) complain(new Refused("", `Not in the zip: ${failed.join("; ")}`));
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
  async (response) => ({ limits } = await response.json()),
  () => {}, // the first picture will tell
);
consistencyShown();
setDivider(0.5);
