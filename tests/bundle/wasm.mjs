// What tests of model.wasm have Node do: node wasm.mjs FOLDER < JSON of a request > JSON of its answer.
import { readFileSync } from "node:fs";
import { pathToFileURL } from "node:url";

const folder = process.argv[2];
const { Model } = await import(pathToFileURL(`${folder}/bitvit.mjs`));
const bytes = readFileSync(`${folder}/model.wasm`);
const bits = (floats) => Array.from(new Uint32Array(floats.buffer, floats.byteOffset, floats.length));
const image = ({ data, width, height }) => ({ data: Uint8ClampedArray.from(Buffer.from(data, "base64")), width, height });
const numbers = (data) => new Float32Array(Uint8Array.from(Buffer.from(data, "base64")).buffer);

const answers = {
  interface: () => {
    const module = new WebAssembly.Module(bytes);
    const names = (list) => list.map(({ name }) => name).sort();
    return [names(WebAssembly.Module.imports(module)), names(WebAssembly.Module.exports(module))];
  },
  logits: (model, images) => images.map((one) => bits(model.logits(image(one)))),
  planes: (model, all) => all.map((one) => bits(model.ofPlanes(numbers(one)))),
  classify: (model, images, topK) => images.map((one) => model.classify(image(one), topK)),
  cropped: (_, images, preprocessing) =>
    images.map((one) => {
      const model = Object.assign(Object.create(Model.prototype), { about: { preprocessing } });
      return Buffer.from(model.cropped(image(one))).toString("base64");
    }),
  missing: () => Model.load(new Response("no such file", { status: 404 })).catch(String),
  error: (model, one) => {
    try {
      return model.logits(image(one)) && "none";
    } catch (problem) {
      return `${problem.name}: ${problem.message}`;
    }
  },
};
const [name, ...rest] = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(await answers[name](await Model.load(Promise.resolve(bytes)), ...rest)));
