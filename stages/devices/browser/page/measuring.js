// What this browser is, and how a model is run in it. Nothing here touches the page's looks.

const WASM = {
  wasm: "ort-wasm-simd-threaded.wasm",
  webgpu: "ort-wasm-simd-threaded.asyncify.wasm",
};
const TRIES = 5;

export class Stopped extends Error {}

// A phone on Wi-Fi loses a request now and then; what the server says is final.
export async function ask(path, message) {
  const request = message === undefined ? {} : { method: "POST", body: JSON.stringify(message) };
  for (let attempt = 1; ; attempt += 1) {
    let response;
    try {
      response = await fetch(path, request);
    } catch (error) {
      if (attempt === TRIES) {
        throw new Error("The computer does not answer. Is ackd probe still running there?");
      }
      await new Promise((resolve) => setTimeout(resolve, 500 * 2 ** attempt));
      continue;
    }
    if (!response.ok) throw new Error(`${path}: ${await response.text()}`);
    return response;
  }
}

const kept = new Map();

// Each file once: browsers keep nothing of a page with a self-signed certificate.
export function load(path) {
  if (!kept.has(path)) {
    const content = ask(path).then((response) => response.arrayBuffer());
    content.catch(() => kept.delete(path));
    kept.set(path, content);
  }
  return kept.get(path);
}

function clockStep() {
  let step = Infinity;
  for (let count = 0; count < 20; count += 1) {
    const start = performance.now();
    let now = start;
    while (now === start) now = performance.now();
    step = Math.min(step, now - start);
  }
  return Math.round(step * 1e6) / 1e6;
}

async function gpu() {
  const adapter = await navigator.gpu?.requestAdapter().catch(() => null);
  if (!adapter) return null;
  const told = adapter.info ?? {};
  const text = (value) => String(value ?? "").slice(0, 200);
  return {
    vendor: text(told.vendor),
    architecture: text(told.architecture),
    description: text(told.description || told.device),
    half_precision: adapter.features.has("shader-f16"),
  };
}

export async function introduce() {
  const told = await navigator.userAgentData
    ?.getHighEntropyValues(["model", "platformVersion"])
    .catch(() => null);
  const system = told ? `${told.platform} ${told.platformVersion ?? ""}`.trim() : "";
  return {
    user_agent: navigator.userAgent.slice(0, 512),
    platform: system.slice(0, 200) || null,
    model: told?.model?.slice(0, 200) || null,
    cores: navigator.hardwareConcurrency || 1,
    isolated: self.crossOriginIsolated === true,
    secure: self.isSecureContext,
    timer_ms: clockStep(),
    gpu: await gpu(),
  };
}

// A model in a worker of its own.
export class Model {
  constructor() {
    this.worker = new Worker("worker.js", { type: "module" });
    this.waiting = new Map();
    this.next = 0;
    this.worker.onmessage = ({ data }) => {
      const { resolve, reject } = this.waiting.get(data.id);
      this.waiting.delete(data.id);
      if ("error" in data) reject(new Error(data.error));
      else resolve(data.result);
    };
    this.worker.onerror = (event) => {
      event.preventDefault();
      this.fail(new Error(event.message || "the browser ended the worker"));
    };
  }

  fail(error) {
    for (const { reject } of this.waiting.values()) reject(error);
    this.waiting.clear();
  }

  call(action, message) {
    const id = this.next;
    this.next += 1;
    return new Promise((resolve, reject) => {
      this.waiting.set(id, { resolve, reject });
      this.worker.postMessage({ ...message, action, id });
    });
  }

  close() {
    this.worker.terminate();
    this.fail(new Stopped());
  }

  static async open(about, { file, provider, threads, alone = false }, signal) {
    const [model, wasm] = await Promise.all([
      load(`models/${file}`),
      load(`runtime/${WASM[provider]}`),
    ]);
    if (signal?.aborted) throw new Stopped();
    const opened = new Model();
    signal?.addEventListener("abort", () => opened.close(), { once: true });
    try {
      const { image_size: size, input, output } = about;
      opened.facts = await opened.call("open", {
        model, wasm, provider, threads, alone, size, input, output,
      });
    } catch (error) {
      opened.close();
      throw error;
    }
    return opened;
  }
}

function base64(values) {
  const bytes = new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  let text = "";
  for (let at = 0; at < bytes.length; at += 0x8000) {
    text += String.fromCharCode(...bytes.subarray(at, at + 0x8000));
  }
  return btoa(text);
}

const rounded = (ms) => Math.round(ms * 1e4) / 1e4;

async function openWhole(about, task, signal) {
  if (task.provider !== "webgpu") return [await Model.open(about, task, signal), "wasm"];
  try {
    return [await Model.open(about, { ...task, alone: true }, signal), "webgpu"];
  } catch (error) {
    if (error instanceof Stopped) throw error;
    return [await Model.open(about, task, signal), "webgpu+wasm"];
  }
}

async function measure(about, task, images, signal) {
  let hidden = document.hidden;
  const watch = () => { hidden ||= document.hidden; };
  document.addEventListener("visibilitychange", watch);
  try {
    const [model, provider] = await openWhole(about, task, signal);
    try {
      const measured = await model.call("profile", { images, profile: about.profile });
      return {
        version: model.facts.version,
        provider,
        threads: provider === "wasm" ? model.facts.threads : 1,
        init_ms: rounded(model.facts.init_ms),
        first_ms: rounded(measured.first_ms),
        logits: base64(measured.logits),
        samples_ms: measured.samples_ms.map(rounded),
        hidden,
      };
    } finally {
      model.close();
    }
  } catch (error) {
    if (error instanceof Stopped) throw error;
    return { error: error.message.slice(0, 500) };
  } finally {
    document.removeEventListener("visibilitychange", watch);
  }
}

// All tasks, one after the other. `show` hears of the plan, of what begins and of each row.
export async function measureAll(about, browser, show, signal) {
  const lock = await navigator.wakeLock?.request("screen").catch(() => null);
  try {
    const images = new Uint8Array(await load("golden"));
    const { run, tasks } = await (await ask("runs", browser)).json();
    show.planned(tasks);
    for (const task of tasks) {
      if (task.status !== "planned") continue;
      show.begun(task);
      const result = await measure(about, task, images, signal);
      const judged = await (await ask(`runs/${run}/${task.number}`, { result })).json();
      show.measured(task, judged.row);
    }
  } finally {
    lock?.release().catch(() => null);
  }
}
