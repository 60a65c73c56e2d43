// Builds dist/esm and dist/cjs from src, with types.
import { execFileSync } from "node:child_process";
import { rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

process.chdir(fileURLToPath(new URL("..", import.meta.url)));
const tsc = (...flags) => execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "-p", ".", ...flags], { stdio: "inherit" });

rmSync("dist", { recursive: true, force: true });
tsc();
tsc("--outDir", "dist/cjs", "--module", "commonjs", "--moduleResolution", "bundler");
writeFileSync("dist/cjs/package.json", '{ "type": "commonjs" }\n');
