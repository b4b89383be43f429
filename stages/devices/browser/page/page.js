import { Model, Stopped, ask, introduce, measureAll } from "./measuring.js";
import { decoded, fitted } from "./picture.js";

const SHOWN_CLASSES = 5;
const $ = (id) => document.getElementById(id);

function element(name, className, text) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

const significant = (value) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));
const several = (count, one, more = `${one}s`) => `${count} ${count === 1 ? one : more}`;

function trouble(error) {
  $("trouble").textContent = error.message;
  $("trouble").hidden = false;
}

function showAbout(about) {
  document.title = `${about.network} - ackd probe`;
  $("network").textContent = about.network;
  const size = `${about.image_size} × ${about.image_size}`;
  $("lede").textContent = `A classifier of ${several(about.labels.length, "class", "classes")} for images of ${size} pixels, running in your browser.`;
  const { warmup_runs, warmup_seconds, min_runs, min_seconds } = about.profile;
  $("method").textContent = `Each model gets a fresh worker. One image at a time: the first run, then ${several(about.golden_images, "image")} whose answers are compared with torch's, then at least ${warmup_runs} runs and ${warmup_seconds} s to warm up, then at least ${min_runs} runs and ${min_seconds} s that count. Nothing is left out. p50 is the median; a tenth of the runs took longer than p90. onnxruntime-web ${about.runtime}.`;
  for (const [precision, file] of Object.entries(about.models)) {
    $("precision").append(new Option(precision, file));
  }
  $("which").hidden = Object.keys(about.models).length < 2;
}

function showBrowser(browser) {
  const box = $("isolation");
  const step = `${Number(browser.timer_ms.toPrecision(2))} ms`;
  box.className = `isolation ${browser.isolated ? "yes" : "no"}`;
  box.append(element("strong", "", browser.isolated ? "✓ Isolated" : "Not isolated"));
  if (browser.isolated) {
    box.append(`: threads are available, and the clock has steps of ${step}.`);
  } else {
    const lost = `one thread only, ${browser.secure ? "" : "no GPU, "}and a clock with steps of ${step}`;
    box.append(`: ${lost}, too coarse for short times. To lift these limits, start `);
    box.append(element("code", "", "ackd probe --lan --https"), ", or use a cable with ");
    box.append(element("code", "", "adb reverse"), ".");
  }
  box.hidden = false;
  const { gpu } = browser;
  const name = gpu && [gpu.vendor, gpu.architecture, gpu.description].filter(Boolean).join(", ");
  const facts = {
    device: browser.model,
    system: browser.platform,
    cores: browser.cores,
    isolated: browser.isolated ? "yes" : "no",
    "clock step": step,
    WebGPU: gpu ? `${name || "unnamed"}${gpu.half_precision ? ", with float16" : ""}` : "none",
    "user agent": browser.user_agent,
  };
  for (const [key, value] of Object.entries(facts)) {
    if (value !== null) $("facts").append(element("dt", "", key), element("dd", "", value));
  }
}

// The list of measurements.

const RUNTIMES = { wasm: "CPU", webgpu: "GPU", "webgpu+wasm": "GPU and CPU" };

function nameOf(task) {
  const threads = task.provider === "wasm" ? `, ${several(task.threads, "thread")}` : "";
  return RUNTIMES[task.provider] + threads;
}

function itemOf(task) {
  const item = element("li", "waiting");
  item.append(element("span", "name", nameOf(task)), element("span", "figure", "waiting"));
  return item;
}

const part = (item, name) => item.querySelector(`.${name}`);

// Under the name of each precision its measurements; what cannot be measured comes below.
function list(tasks) {
  const items = new Map();
  let precision = null;
  for (const task of tasks) {
    if (task.status !== "planned") continue;
    if (task.precision !== precision) $("rows").append(element("li", "precision", task.precision));
    precision = task.precision;
    items.set(task.number, itemOf(task));
    $("rows").append(items.get(task.number));
  }
  const skipped = new Map();
  for (const task of tasks) {
    if (task.status === "planned") continue;
    const what = `${nameOf(task)}: ${task.reason}`;
    skipped.set(what, [...(skipped.get(what) ?? []), task.precision]);
  }
  $("skipped").replaceChildren(...[...skipped].map(([what, precisions]) => {
    const item = element("li", "", `${what} (${precisions.join(", ")}).`);
    item.prepend(element("strong", "", "Not measured: "));
    return item;
  }));
  return items;
}

function parity(row) {
  const { max_relative_error: error, top1_agreement: agreement } = row.golden;
  if (row.precision.startsWith("fp")) return `error ${error.toExponential(0)}`;
  return `agreement ${Math.round(100 * agreement)} %`;
}

function showRow(item, row) {
  item.className = row.status;
  if (row.provider === "webgpu+wasm") part(item, "name").textContent = RUNTIMES[row.provider];
  const figure = part(item, "figure");
  if (row.p50_ms === null) {
    figure.textContent = "failed";
    item.append(element("span", "reason", row.reason));
    return;
  }
  figure.textContent = significant(row.p50_ms);
  figure.append(element("small", "", " ms"));
  item.append(element("span", "parity", row.status === "passed" ? `✓ ${parity(row)}` : row.reason));
  item.append(element("span", "more", `p90 ${significant(row.p90_ms)}${row.noisy ? ", noisy" : ""}`));
  item.append(element("span", "bar"));
  if (row.noisy) item.classList.add("noisy");
  item.dataset.p50 = row.p50_ms;
  const items = [...item.parentElement.querySelectorAll("[data-p50]")];
  const longest = Math.max(...items.map((other) => Number(other.dataset.p50)));
  for (const other of items) {
    const share = (100 * Number(other.dataset.p50)) / longest;
    part(other, "bar").style.setProperty("--share", `${share.toFixed(1)}%`);
  }
}

function showVerdict(rows) {
  const failed = rows.filter((row) => row.status === "failed").length;
  const [best] = rows
    .filter((row) => row.status === "passed")
    .sort((a, b) => a.p50_ms - b.p50_ms);
  const verdict = $("verdict");
  verdict.className = `verdict ${failed || !rows.length ? "bad" : "good"}`;
  const matched = `✓ All ${rows.length} measured models match torch.`;
  const said = [failed ? `${failed} of ${rows.length} failed.` : rows.length ? matched : "Nothing could be measured here."];
  if (best) said.push(` Fastest is ${best.precision} on ${nameOf(best)}: ${significant(best.p50_ms)} ms${best.noisy ? " (noisy)" : ""}.`);
  verdict.replaceChildren(element("strong", "", said.shift()), ...said, " The report is on the computer.");
  verdict.hidden = false;
}

async function measureAndShow(about, browser, signal) {
  let items = new Map();
  const rows = [];
  $("rows").replaceChildren();
  $("skipped").replaceChildren();
  $("verdict").hidden = true;
  $("progress").hidden = false;
  const advance = () => {
    const share = (100 * rows.length) / Math.max(1, items.size);
    $("progress").setAttribute("aria-valuenow", Math.round(share));
    $("progress").firstElementChild.style.setProperty("--done", `${share}%`);
  };
  advance();
  try {
    await measureAll(about, browser, {
      planned(tasks) {
        items = list(tasks);
      },
      begun(task) {
        items.get(task.number).className = "running";
        part(items.get(task.number), "figure").textContent = "measuring";
      },
      measured(task, row) {
        rows.push(row);
        showRow(items.get(task.number), row);
        advance();
      },
    }, signal);
    showVerdict(rows);
  } finally {
    $("progress").hidden = true;
    for (const item of items.values()) {
      if (item.matches(".waiting, .running")) {
        item.className = "stopped";
        part(item, "figure").textContent = "stopped";
      }
    }
  }
}

function prepareMeasuring(about, browser) {
  const button = $("start");
  const label = button.textContent;
  const { min_seconds, warmup_seconds } = about.profile;
  const seconds = Math.max(1, Math.round(min_seconds + warmup_seconds));
  $("before").textContent = `About ${seconds} s for each model and setting. Keep this page in the foreground.`;
  let stopping = null;
  const start = async () => {
    stopping = new AbortController();
    $("trouble").hidden = true;
    button.textContent = "Stop";
    button.classList.add("stop");
    delete document.body.dataset.finished;
    try {
      await measureAndShow(about, browser, stopping.signal);
    } catch (error) {
      if (!(error instanceof Stopped)) trouble(error);
    }
    document.body.dataset.finished = "yes";
    stopping = null;
    button.textContent = "Measure again";
    button.classList.remove("stop");
  };
  button.onclick = () => (stopping ? stopping.abort() : start());
  button.textContent = label;
  button.disabled = false;
  if (location.hash === "#measure") start();
}

// The picture.

function softmax(logits) {
  const highest = logits.reduce((most, logit) => Math.max(most, logit), -Infinity);
  const powers = Array.from(logits, (logit) => Math.exp(logit - highest));
  const sum = powers.reduce((total, power) => total + power, 0);
  return powers.map((power) => power / sum);
}

function showPixels(image, size) {
  const canvas = $("seen");
  canvas.width = size;
  canvas.height = size;
  const shown = new ImageData(size, size);
  for (let at = 0; at < size * size; at += 1) {
    shown.data.set(image.subarray(at * 3, at * 3 + 3), at * 4);
    shown.data[at * 4 + 3] = 255;
  }
  canvas.getContext("2d").putImageData(shown, 0, 0);
}

function showAnswer(about, logits, ms) {
  const shares = softmax(logits);
  const order = shares.map((_, at) => at).sort((a, b) => shares[b] - shares[a]);
  $("classes").replaceChildren(...order.slice(0, SHOWN_CLASSES).map((at) => {
    const item = element("li");
    item.append(element("span", "name", about.labels[at]));
    item.append(element("span", "share", `${(100 * shares[at]).toFixed(1)} %`));
    const bar = element("span", "bar");
    bar.style.setProperty("--share", `${100 * shares[at]}%`);
    item.append(bar);
    return item;
  }));
  $("took").textContent = `${significant(ms)} ms on the CPU, one thread`;
}

function prepareTrying(about) {
  const size = about.image_size;
  let image = null;
  let model = null;
  let opened = null;
  let busy = Promise.resolve();
  const show = async () => {
    if (!image) return;
    const file = $("precision").value;
    if (opened !== file) {
      model?.close();
      opened = null;
      model = await Model.open(about, { file, provider: "wasm", threads: 1 });
      opened = file;
      await model.call("answer", { image }); // the first run takes longer than any other
    }
    const { logits, ms } = await model.call("answer", { image });
    $("answer").hidden = false;
    showPixels(image, size);
    showAnswer(about, logits, ms);
  };
  const inTurn = (work) => {
    busy = busy.then(work).catch(trouble);
  };
  const take = async (file) => {
    $("trouble").hidden = true;
    let bitmap;
    try {
      bitmap = await decoded(file);
    } catch {
      throw new Error(`${file.name} is not a picture that this browser can read; choose another, such as a JPEG or PNG.`);
    }
    $("size").textContent = `${bitmap.width} × ${bitmap.height} → ${size} × ${size}`;
    image = fitted(bitmap, about);
    bitmap.close();
    await show();
  };
  for (const input of [$("camera"), $("library")]) {
    input.onchange = () => {
      const [file] = input.files;
      input.value = ""; // so that the same picture can be taken again
      if (file) inTurn(() => take(file));
    };
  }
  $("precision").onchange = () => inTurn(show);
}

try {
  const about = await (await ask("about")).json();
  showAbout(about);
  prepareTrying(about);
  const browser = await introduce();
  showBrowser(browser);
  prepareMeasuring(about, browser);
} catch (error) {
  trouble(error);
}
