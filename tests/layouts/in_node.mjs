// node in_node.mjs GIVEN.json: Transformers.js in node. Writes its answers into this folder.
import { readFileSync, writeFileSync } from "node:fs";
import * as library from "@huggingface/transformers";
import { ask } from "./ask.mjs";

const given = JSON.parse(readFileSync(process.argv[2], "utf8"));
library.env.allowRemoteModels = false;
library.env.localModelPath = given.parent;
const answers = await ask(library, given, writeFileSync);
writeFileSync("answers.json", JSON.stringify(answers));
