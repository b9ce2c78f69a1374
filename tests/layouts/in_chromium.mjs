// node in_chromium.mjs GIVEN.json CHROMIUM: Transformers.js on a page in headless Chromium, on
// WebAssembly. Writes its answers into this folder.
import { createReadStream, existsSync, readFileSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import { join, normalize } from "node:path";
import { chromium } from "playwright-core";

const given = JSON.parse(readFileSync(process.argv[2], "utf8"));
const TYPES = {
  js: "text/javascript",
  mjs: "text/javascript",
  json: "application/json",
  wasm: "application/wasm",
  jpg: "image/jpeg",
  png: "image/png",
};
const LIBRARY = "/node_modules/@huggingface/transformers/dist/transformers.min.js";

// GET / is an empty page, /models/ the parent of the model's folder, /image the image; the rest is
// this folder. PUT keeps a file.
function place(path) {
  if (path === "/image") return given.image;
  if (path.startsWith("/models/")) return join(given.parent, normalize(path.slice(7)));
  return join(process.cwd(), normalize(path));
}
const server = createServer((request, response) => {
  const path = decodeURIComponent(new URL(request.url, "http://localhost").pathname);
  if (request.method === "PUT") {
    const parts = [];
    request.on("data", (part) => parts.push(part));
    request.on("end", () => {
      writeFileSync(path.slice(1), Buffer.concat(parts));
      response.end();
    });
  } else if (path === "/") {
    response.setHeader("content-type", "text/html").end("<!doctype html><title>Page</title>");
  } else if (existsSync(place(path))) {
    const file = place(path);
    const type = TYPES[file.split(".").pop()] ?? "application/octet-stream";
    response.setHeader("content-type", type);
    createReadStream(file).pipe(response);
  } else {
    response.writeHead(404).end();
  }
});
await new Promise((resolve) => server.listen(0, "127.0.0.1", resolve));
const browser = await chromium.launch({ executablePath: process.argv[3], args: ["--no-sandbox"] });
try {
  const tab = await browser.newPage();
  tab.on("console", (line) => line.type() === "error" && console.error(line.text()));
  await tab.goto(`http://127.0.0.1:${server.address().port}/`);
  tab.setDefaultTimeout(0);
  const answers = await tab.evaluate(async ({ LIBRARY, name, questions }) => {
    const library = await import(LIBRARY);
    const { ask } = await import("/ask.mjs");
    library.env.allowRemoteModels = false;
    library.env.allowLocalModels = true;
    library.env.localModelPath = "/models/";
    library.env.useBrowserCache = false;
    library.env.useWasmCache = false;
    library.env.backends.onnx.wasm.wasmPaths = "/node_modules/onnxruntime-web/dist/";
    const save = (file, data) => fetch(`/${file}`, { method: "PUT", body: data });
    const options = { device: "wasm", dtype: "fp32" };
    return ask(library, { name, questions, options, image: "/image" }, save);
  }, { ...given, LIBRARY });
  writeFileSync("answers.json", JSON.stringify(answers));
} finally {
  await browser.close();
  server.close();
}
