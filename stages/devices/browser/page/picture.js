// A picture as the model was taught to see one: cropped about its middle, with black bars, or
// stretched. Browsers shrink each in their own way, so it is done here, as Pillow does it with
// bicubic weights, in the same integers (stages/data/sources/decode.py).

const BITS = 22;
const STRIP = 64;

function bicubic(distance) {
  const x = Math.abs(distance);
  if (x < 1) return (1.5 * x - 2.5) * x * x + 1;
  if (x < 2) return (((x - 5) * x + 8) * x - 4) * -0.5;
  return 0;
}

// For each pixel of the result: where its sources begin, and their weights times 2^BITS.
function weights(length, from, to, size) {
  const scale = (to - from) / size;
  const stretch = Math.max(scale, 1);
  return Array.from({ length: size }, (_, at) => {
    const centre = from + (at + 0.5) * scale;
    const first = Math.max(Math.trunc(centre - 2 * stretch + 0.5), 0);
    const last = Math.min(Math.trunc(centre + 2 * stretch + 0.5), length);
    const shares = Array.from(
      { length: last - first },
      (_, k) => bicubic((k + first - centre + 0.5) * (1 / stretch)),
    );
    const sum = shares.reduce((total, share) => total + share, 0);
    const whole = shares.map((share) => {
      const value = (share / sum) * 2 ** BITS;
      return Math.trunc(value < 0 ? value - 0.5 : value + 0.5);
    });
    return { first, whole };
  });
}

const clipped = (sum) => Math.min(Math.max(sum >> BITS, 0), 255);

// Rows of RGBA pixels, drawn strip by strip: phones refuse to hold a photograph on one canvas.
function* rowsOf(bitmap) {
  const canvas = document.createElement("canvas");
  canvas.width = bitmap.width;
  canvas.height = Math.min(STRIP, bitmap.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  for (let top = 0; top < bitmap.height; top += STRIP) {
    context.clearRect(0, 0, canvas.width, canvas.height);
    context.drawImage(bitmap, 0, -top);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const count = Math.min(STRIP, bitmap.height - top);
    for (let row = 0; row < count; row += 1) {
      yield data.subarray(row * canvas.width * 4, (row + 1) * canvas.width * 4);
    }
  }
}

function shrunkRow(row, columns) {
  const shrunk = new Uint8Array(columns.length * 3);
  for (let x = 0; x < columns.length; x += 1) {
    const { first, whole } = columns[x];
    let [red, green, blue] = [2 ** (BITS - 1), 2 ** (BITS - 1), 2 ** (BITS - 1)];
    for (let k = 0; k < whole.length; k += 1) {
      const at = (first + k) * 4;
      red += row[at] * whole[k];
      green += row[at + 1] * whole[k];
      blue += row[at + 2] * whole[k];
    }
    shrunk.set([clipped(red), clipped(green), clipped(blue)], x * 3);
  }
  return shrunk;
}

// A row at a time, as they come: each belongs to a few rows of the result.
function shrunkRows(rows, lines) {
  const sums = lines.map(() => null);
  let y = 0;
  for (const row of rows) {
    lines.forEach(({ first, whole }, at) => {
      const weight = whole[y - first];
      if (weight === undefined) return;
      sums[at] ??= new Int32Array(row.length).fill(2 ** (BITS - 1));
      const sum = sums[at];
      for (let k = 0; k < row.length; k += 1) sum[k] += row[k] * weight;
    });
    y += 1;
  }
  return sums.map((sum) => Uint8Array.from(sum, clipped));
}

function* each(rows, change) {
  for (const row of rows) yield change(row);
}

// As Python rounds: halves to even numbers.
const rounded = (x) => (x % 1 === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

// uint8 [image_size, image_size, 3] of a bitmap: a square of length resize, and its centre. The
// three values are those of model.json.
export function fitted(bitmap, { image_size: size, resize, fit }) {
  const { width, height } = bitmap;
  const short = Math.min(width, height);
  const long = Math.max(width, height);
  const along = (length) => {
    const shown = fit === "crop" ? short : length;
    const count = fit === "pad" ? rounded((length / long) * resize) : resize;
    const start = (length - shown) / 2;
    return length === count && start === 0
      // A direction that keeps its length is left alone.
      ? Array.from({ length: count }, (_, at) => ({ first: at, whole: [2 ** BITS] }))
      : weights(length, start, start + shown, count);
  };
  const columns = along(width);
  const lines = along(height);
  const [left, top] = [columns, lines].map(({ length }) => rounded((resize - length) * 0.5));
  const shrink = (row) => shrunkRow(row, columns);
  // What comes first is rounded first, so it matters. Pillow 13 begins with the rows of a picture
  // that is tall enough. (With bars its rule is another one; that is a level's difference.)
  const rows = height + lines.length > 2 * Math.max(width, columns.length)
    ? shrunkRows(rowsOf(bitmap), lines).map(shrink)
    : shrunkRows(each(rowsOf(bitmap), shrink), lines);
  const square = new Uint8Array(resize * resize * 3);
  rows.forEach((row, y) => square.set(row, ((y + top) * resize + left) * 3));
  return middle(square, resize, size);
}

// The centre [size, size, 3] of a square.
function middle(square, side, size) {
  const start = Math.floor((side - size) / 2);
  const image = new Uint8Array(size * size * 3);
  for (let y = 0; y < size; y += 1) {
    const at = ((y + start) * side + start) * 3;
    image.set(square.subarray(at, at + size * 3), y * size * 3);
  }
  return image;
}

// Upright, as browsers do it anyway, and with the colours that stand in the file.
export const decoded = (file) => createImageBitmap(file, {
  colorSpaceConversion: "none",
  premultiplyAlpha: "none",
});
