/* A BHViT of model.wasm, in a browser, Node, Deno or Bun. Nothing is asked of any server.
 *
 *     import { Model } from "./bitvit.js";
 *     const model = await Model.load(fetch("model.wasm"));
 *     model.classify(context.getImageData(0, 0, width, height), 5);   // [{ label, index, score }, …]
 */

const PRECISION = 22; // bits of a filter's weights behind the point, as in Pillow's 8-bit resampling

export class Model {
  #exports;

  /** Of an instance of model.wasm, which imports nothing. */
  constructor(instance) {
    this.#exports = instance.exports;
    const at = this.#exports.bitvit_about.value;
    const bytes = new Uint8Array(this.#exports.memory.buffer);
    /** Version, config, preprocessing and class names, as in bundle.json. */
    this.about = JSON.parse(new TextDecoder().decode(bytes.slice(at, bytes.indexOf(0, at))));
    const { labels, outputs } = this.about;
    this.labels = labels ?? Array.from({ length: outputs }, (_, index) => `LABEL_${index}`);
  }

  /** source: the bytes of model.wasm, or a Response that has them, or a promise of one of these. */
  static async load(source) {
    const found = await source;
    if (found.ok === false) throw new Error(`${found.url}: HTTP status ${found.status}`);
    const bytes = typeof found.arrayBuffer === "function" ? await found.arrayBuffer() : found;
    const { instance } = await WebAssembly.instantiate(bytes);
    return new Model(instance);
  }

  /** The topK most probable classes of an image (as `logits` takes it), the most probable first. */
  classify(image, topK = 5) {
    const logits = this.logits(image);
    const most = logits.reduce((a, b) => Math.max(a, b));
    const powers = Array.from(logits, (logit) => Math.exp(logit - most));
    const sum = powers.reduce((a, b) => a + b);
    const order = Array.from(logits.keys()).sort((a, b) => logits[b] - logits[a] || a - b);
    return order.slice(0, topK).map((index) => ({ label: this.labels[index], index, score: powers[index] / sum }));
  }

  /**
   * The network's output, a Float32Array.
   * image: ImageData, or any { data, width, height } with R, G, B, A bytes, of which A is left out. It is resized and
   * cropped as bitvit does it. Throws a RangeError for a size that cannot be.
   */
  logits(image) {
    const pixels = this.cropped(image);
    if (!this.#exports.bitvit_run_bytes) return this.ofPlanes(this.#normalised(pixels));
    new Uint8Array(this.#exports.memory.buffer).set(pixels, this.#exports.bitvit_bytes.value);
    this.#exports.bitvit_run_bytes();
    return this.#floats("bitvit_logits", this.about.outputs).slice();
  }

  /** The same of normalised planes, a Float32Array of [3][size][size]. */
  ofPlanes(planes) {
    const size = this.about.config.image_size;
    if (planes.length !== 3 * size * size) throw new RangeError(`expected 3 x ${size} x ${size} numbers`);
    this.#floats("bitvit_planes", planes.length).set(planes);
    this.#exports.bitvit_run_planes();
    return this.#floats("bitvit_logits", this.about.outputs).slice();
  }

  /** What the network sees of an image: R, G, B, A bytes of the centre, crop x crop pixels. */
  cropped({ data, width, height }) {
    const { resize, crop } = this.about.preprocessing;
    if (!(width >= 1 && height >= 1) || data.length !== 4 * width * height)
      throw new RangeError(`an image of ${width} x ${height} pixels in ${data.length} bytes`);
    if (resize === null && (width !== crop || height !== crop))
      throw new RangeError(`an image of ${width} x ${height} pixels, expected exactly ${crop} x ${crop}`);
    const short = resize ?? crop;
    const long = Math.trunc((short * Math.max(width, height)) / Math.min(width, height));
    const newWidth = width <= height ? short : long;
    const newHeight = width <= height ? long : short;
    const left = halfToEven((newWidth - crop) / 2);
    const top = halfToEven((newHeight - crop) / 2);
    const columns = filters(width, newWidth, left, crop);
    const rows = filters(height, newHeight, top, crop);
    // As Pillow 13 and later; which pass is first decides some roundings.
    if (newHeight < height && height - newHeight > 2 * (width - newWidth))
      return horizontal(vertical(data, width, 0, rows), width, 0, crop, columns);
    const { start } = rows[0];
    return vertical(horizontal(data, width, start, rows[crop - 1].end, columns), crop, start, rows);
  }

  #floats(name, count) {
    return new Float32Array(this.#exports.memory.buffer, this.#exports[name].value, count);
  }

  /** Bytes -> padded, normalised planes; for the few networks whose first layer takes these alone. */
  #normalised(pixels) {
    const { crop, pad } = this.about.preprocessing;
    const size = crop + 2 * pad;
    const table = this.#floats("bitvit_table", 3 * 256);
    const planes = new Float32Array(3 * size * size);
    for (let channel = 0; channel < 3; channel++)
      for (let y = 0; y < size; y++)
        for (let x = 0; x < size; x++) {
          const isInside = y >= pad && y < pad + crop && x >= pad && x < pad + crop;
          const byte = isInside ? pixels[4 * ((y - pad) * crop + x - pad) + channel] : 0;
          planes[(channel * size + y) * size + x] = table[256 * channel + byte];
        }
    return planes;
  }
}

// ------------------------------------------------------------------------- resizing: Pillow's BICUBIC, byte for byte

function halfToEven(x) {
  const below = Math.floor(x);
  return x - below === 0.5 ? below + (below % 2) : Math.round(x);
}

/** The cubic of Keys with a = -1/2. */
function bicubic(x) {
  const a = -0.5;
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

/** For `count` pixels from `first` on, of `to` that `from` are resized to: which are added up, and their weights. */
function filters(from, to, first, count) {
  const scale = from / to;
  const stretch = Math.max(scale, 1); // the filter is as wide as the new pixels, which is what antialiases
  const support = 2 * stretch;
  return Array.from({ length: count }, (_, number) => {
    const centre = (first + number + 0.5) * scale;
    const start = Math.max(Math.trunc(centre - support + 0.5), 0);
    const end = Math.min(Math.trunc(centre + support + 0.5), from);
    const weights = [];
    for (let x = start; x < end; x++) weights.push(bicubic((x - centre + 0.5) * (1 / stretch)));
    const sum = weights.reduce((a, b) => a + b, 0);
    const scaled = weights.map((weight) => fixed(sum === 0 ? weight : weight * (1 / sum)));
    return { start, end, weights: Int32Array.from(scaled) };
  });
}

/** A weight as a whole number, half away from zero. */
function fixed(weight) {
  return Math.trunc((weight < 0 ? -0.5 : 0.5) + weight * 2 ** PRECISION);
}

/** Rows top to bottom - 1 of an image, each filtered along its columns. */
function horizontal(data, width, top, bottom, columns) {
  const out = new Uint8ClampedArray(4 * columns.length * (bottom - top));
  for (let y = top, o = 0; y < bottom; y++)
    for (const { start, end, weights } of columns) {
      let red = 1 << (PRECISION - 1), green = red, blue = red;
      for (let x = start, i = 4 * (y * width + start); x < end; x++, i += 4) {
        const weight = weights[x - start];
        red += data[i] * weight;
        green += data[i + 1] * weight;
        blue += data[i + 2] * weight;
      }
      out[o++] = red >> PRECISION;
      out[o++] = green >> PRECISION;
      out[o++] = blue >> PRECISION;
      out[o++] = 255;
    }
  return out;
}

/** The same along the rows; `data` begins with row `top`. */
function vertical(data, width, top, rows) {
  const out = new Uint8ClampedArray(4 * width * rows.length).fill(255);
  rows.forEach(({ start, end, weights }, y) => {
    for (let x = 0; x < width; x++) {
      let red = 1 << (PRECISION - 1), green = red, blue = red;
      for (let row = start, i = 4 * ((start - top) * width + x); row < end; row++, i += 4 * width) {
        const weight = weights[row - start];
        red += data[i] * weight;
        green += data[i + 1] * weight;
        blue += data[i + 2] * weight;
      }
      const o = 4 * (y * width + x);
      out[o] = red >> PRECISION;
      out[o + 1] = green >> PRECISION;
      out[o + 2] = blue >> PRECISION;
    }
  });
  return out;
}
