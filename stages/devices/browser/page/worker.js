// One model in one runtime, away from the page, so that drawing and measuring do not disturb each
// other. A worker is never used for a second model: like a fresh process, it holds nothing yet.

const LIBRARIES = {
  wasm: ["ort.wasm.min.mjs", "ort-wasm-simd-threaded"],
  webgpu: ["ort.webgpu.min.mjs", "ort-wasm-simd-threaded.asyncify"],
};

let ort;
let session;
let shape;
let names;

const place = (name) => new URL(`runtime/${name}`, self.location.href).href;

// `alone` refuses a model of which the GPU leaves some nodes to the CPU.
async function open({ model, wasm, provider, threads, alone, size, input, output }) {
  const [library, binary] = LIBRARIES[provider];
  ort = await import(place(library));
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.wasmPaths = { mjs: place(`${binary}.mjs`), wasm: place(`${binary}.wasm`) };
  ort.env.wasm.wasmBinary = wasm;
  shape = [1, size, size, 3];
  names = { input, output };
  const options = { executionProviders: [provider], graphOptimizationLevel: "all" };
  if (alone) options.extra = { session: { disable_cpu_ep_fallback: "1" } };
  const start = performance.now();
  session = await ort.InferenceSession.create(new Uint8Array(model), options);
  return {
    init_ms: performance.now() - start,
    threads: ort.env.wasm.numThreads,
    version: ort.env.versions.web,
  };
}

const feed = (image) => ({ [names.input]: new ort.Tensor("uint8", image, shape) });

async function run(feeds) {
  const start = performance.now();
  const results = await session.run(feeds);
  return [performance.now() - start, results[names.output].data];
}

async function answer({ image }) {
  const [ms, logits] = await run(feed(image));
  return { ms, logits };
}

// As stages/devices/runner.py: first run, golden batch, warm-up, then the samples.
async function profile({ images, profile: settings }) {
  const count = shape[1] * shape[2] * 3;
  const first = feed(images.subarray(0, count));
  const [first_ms] = await run(first);
  const logits = [];
  for (let at = 0; at < images.length; at += count) {
    const [, values] = await run(feed(images.subarray(at, at + count)));
    logits.push(...values);
  }
  await times(first, settings.warmup_runs, settings.warmup_seconds, Infinity);
  const samples_ms = await times(
    first, settings.min_runs, settings.min_seconds, settings.max_runs,
  );
  return { first_ms, logits: new Float32Array(logits), samples_ms };
}

async function times(feeds, minRuns, minSeconds, maxRuns) {
  const samples = [];
  const end = performance.now() + 1000 * minSeconds;
  while (samples.length < maxRuns && (samples.length < minRuns || performance.now() < end)) {
    samples.push((await run(feeds))[0]);
  }
  return samples;
}

const actions = { open, answer, profile };

self.onmessage = async ({ data }) => {
  try {
    self.postMessage({ id: data.id, result: await actions[data.action](data) });
  } catch (error) {
    self.postMessage({ id: data.id, error: String(error?.message ?? error) });
  }
};
