// Builds the page into attnviz/pages/assets, the same bytes on every machine; `node build.mjs test` builds the unit tests.
import { readFile, readdir, writeFile } from "node:fs/promises";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const assets = join(here, "..", "attnviz", "pages", "assets");

const common = {
  absWorkingDir: here,
  bundle: true,
  charset: "ascii",
  jsx: "automatic",
  jsxImportSource: "preact",
  legalComments: "none",
  logLevel: "warning",
  minify: true,
  target: ["chrome111", "firefox113", "safari16.4"], // color-mix, DecompressionStream
};

/** `import source from "worker:./worker.ts"` is that file, bundled, as text: a page from disk has no other file to load. */
const workerAsText = {
  name: "worker-as-text",
  setup(builder) {
    builder.onResolve({ filter: /^worker:/ }, ({ path, resolveDir }) => ({
      path: join(resolveDir, path.slice("worker:".length)),
      namespace: "worker",
    }));
    builder.onLoad({ filter: /.*/, namespace: "worker" }, async ({ path }) => {
      const made = await build({ ...common, entryPoints: [path], write: false, format: "iife" });
      return { contents: made.outputFiles[0].text, loader: "text" };
    });
  },
};

/** A script within a page ends at the first `</script`; strings and templates may write it another way. */
const safeInPage = (code) => code.replaceAll(/<\/(script|style)/gi, "<\\/$1").replaceAll("<!--", "<\\!--");

/** Leaflet's rules for what we do not use (a switch of layers, Internet Explorer) name files that no page has. */
const withoutFiles = (style) => style.replaceAll(/[^{}]*\{[^{}]*url\([^{}]*\}/g, "");

/** Writes a file unless it is right already: tests may be reading it. */
async function put(name, text) {
  const path = join(assets, name);
  if ((await readFile(path, "utf8").catch(() => "")) !== text) await writeFile(path, text);
}

async function page() {
  const plugins = [workerAsText];
  const license = await readFile(join(here, "src", "licenses.txt"), "utf8");
  const make = async (entry, format) => {
    const made = await build({ ...common, plugins, entryPoints: [entry], write: false, format });
    return `/*! ${license.trim()} */\n${safeInPage(made.outputFiles[0].text)}`;
  };
  const style = await build({ ...common, entryPoints: ["src/style.css"], write: false, loader: { ".png": "empty" } });
  await put("attnviz.js", await make("src/main.ts", "iife"));
  await put("widget.js", await make("src/widget.ts", "esm"));
  await put("attnviz.css", withoutFiles(style.outputFiles[0].text));
}

async function tests() {
  const files = (await readdir(join(here, "test"))).filter((name) => name.endsWith(".test.ts"));
  await build({
    ...common,
    minify: false,
    target: "node20",
    plugins: [workerAsText],
    entryPoints: files.map((name) => join("test", name)),
    outdir: "build",
    outExtension: { ".js": ".mjs" },
    format: "esm",
    platform: "node",
  });
}

await (process.argv[2] === "test" ? tests() : page());
