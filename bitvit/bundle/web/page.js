
// ------------------------------------------------------------------------------------------------------------ the page

const CLASSES = 5; // shown of each image
const find = (id) => document.getElementById(id);
let model;

/** Text that is base64 -> bytes. */
function decoded(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

/**
 * A file's bytes without what EXIF says of the camera's orientation, by which browsers turn an image, and training code
 * does not: the name of the part of a JPEG, PNG or WebP that holds it becomes one that means nothing.
 */
function unturned(bytes) {
  const view = new DataView(bytes.buffer);
  const text = (at, count) => String.fromCharCode(...bytes.subarray(at, at + count));
  const rename = (at) => { bytes[at] ^= 0x20; };
  if (view.byteLength > 12 && text(1, 3) === "PNG") {
    for (let at = 8; at + 8 <= bytes.length; at += 12 + view.getUint32(at)) if (text(at + 4, 4) === "eXIf") rename(at + 7);
  } else if (text(0, 4) === "RIFF" && text(8, 4) === "WEBP") {
    for (let at = 12; at + 8 <= bytes.length; at += 8 + 2 * Math.ceil(view.getUint32(at + 4, true) / 2))
      if (text(at, 4) === "EXIF") rename(at);
  } else if (bytes[0] === 0xff && bytes[1] === 0xd8) {
    for (let at = 2; at + 10 <= bytes.length && bytes[at] === 0xff && bytes[at + 1] !== 0xda; ) {
      if (bytes[at + 1] === 0xe1 && text(at + 4, 4) === "Exif") rename(at + 4);
      at += bytes[at + 1] === 0xff ? 1 : 2 + view.getUint16(at + 2); // any number of 0xff before a marker
    }
  }
  return bytes;
}

const TILE = 2048; // pixels a side: in a canvas larger than a browser can have, all is black without an error

/** An image file's pixels as they are stored: not turned, colours not converted. What is transparent becomes black. */
async function pixelsOf(file) {
  const blob = new Blob([unturned(new Uint8Array(await file.arrayBuffer()))]);
  const bitmap = await createImageBitmap(blob, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  const { width, height } = bitmap;
  const data = new Uint8ClampedArray(4 * width * height);
  const context = new OffscreenCanvas(TILE, TILE).getContext("2d", { willReadFrequently: true });
  context.globalCompositeOperation = "copy";
  for (let top = 0; top < height; top += TILE)
    for (let left = 0; left < width; left += TILE) {
      const [across, down] = [Math.min(TILE, width - left), Math.min(TILE, height - top)];
      context.drawImage(bitmap, -left, -top);
      const tile = context.getImageData(0, 0, across, down).data;
      for (let y = 0; y < down; y++)
        data.set(tile.subarray(4 * across * y, 4 * across * (y + 1)), 4 * ((top + y) * width + left));
    }
  bitmap.close();
  return { data, width, height };
}

function isOpaque({ data }) {
  let all = 255;
  for (let i = 3; i < data.length; i += 4) all &= data[i];
  return all === 255;
}

function showClasses(item, classes) {
  for (const { label, score } of classes) {
    const row = find("row").content.cloneNode(true);
    row.querySelector(".label").textContent = label;
    row.querySelector(".share").textContent = `${(100 * score).toFixed(1)} %`;
    row.querySelector("meter").value = score;
    item.querySelector("ol").append(row);
  }
}

async function add(file) {
  find("results").prepend(find("card").content.cloneNode(true));
  const item = find("results").firstElementChild;
  const note = item.querySelector(".note");
  item.querySelector("h2").textContent = file.name;
  try {
    const pixels = await pixelsOf(file);
    const image = item.querySelector("img");
    image.src = URL.createObjectURL(file);
    image.onload = () => URL.revokeObjectURL(image.src);
    const begin = performance.now();
    const classes = model.classify(pixels, CLASSES);
    const milliseconds = (performance.now() - begin).toFixed(0);
    showClasses(item, classes);
    note.textContent = `${pixels.width} x ${pixels.height} pixels, resized and classified in ${milliseconds} ms`;
    if (!isOpaque(pixels))
      note.textContent += ". In a browser transparent pixels lose their colours, so bitvit may answer otherwise elsewhere.";
    return `${file.name}: ${classes[0].label}`;
  } catch (problem) {
    note.textContent =
      problem instanceof RangeError ? `${problem.message}.` : "This browser cannot decode the file as an image.";
    note.classList.add("error");
    return `${file.name}: ${note.textContent}`;
  }
}

let queue = Promise.resolve();

function addAll(files) {
  for (const file of files) {
    queue = queue.then(async () => {
      find("status").textContent = await add(file);
      await new Promise((resolve) => setTimeout(resolve)); // lets the browser draw
    });
  }
}

function listen() {
  find("files").addEventListener("change", ({ target }) => { addAll([...target.files]); target.value = ""; });
  addEventListener("dragover", (event) => event.preventDefault());
  addEventListener("drop", (event) => { event.preventDefault(); addAll(event.dataTransfer.files); });
  addEventListener("paste", (event) => addAll(event.clipboardData.files));
}

try {
  model = await Model.load(decoded(find("module").textContent));
  find("module").remove();
  const size = model.about.preprocessing.crop;
  const { length } = model.labels;
  find("facts").textContent = `${length} ${length === 1 ? "class" : "classes"}; sees ${size} x ${size} pixels; bitvit ${model.about.version}`;
  find("files").disabled = false;
  listen();
} catch (problem) {
  find("facts").textContent = `This browser cannot run the model: ${problem.message}`;
}
