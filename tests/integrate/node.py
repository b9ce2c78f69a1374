"""Generated JavaScript in node, with one process for many calls: each start takes a while."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

from tests.integrate.tools import run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

# Each self-test is a module of its own, by the question mark, and ends with its own exit code.
MANY = """
import { readFileSync, writeFileSync } from "node:fs";
import { pathToFileURL } from "node:url";
const answers = {};
for (const [name, [folder, bundle]] of Object.entries(JSON.parse(readFileSync("ask.json")))) {
  const lines = [];
  console.log = (line) => lines.push(line);
  process.argv.splice(2, 1, bundle);
  process.exitCode = undefined;
  await import(pathToFileURL(folder + "/selftest.mjs") + "?" + encodeURIComponent(name));
  answers[name] = { status: process.exitCode, said: lines.join("\\n") };
}
writeFileSync("answers.json", JSON.stringify(answers));
process.exitCode = 0;
"""
# Calls `answer` of `answer.mjs` with each line of stdin, and writes a line with its error, if any.
LOOP = """
import { createInterface } from "node:readline";
import { answer } from "./answer.mjs";
for await (const line of createInterface({ input: process.stdin })) {
  let error = null;
  try {
    answer(JSON.parse(line));
  } catch (caught) {
    error = String(caught.stack);
  }
  console.log(JSON.stringify(error));
}
"""


class Answer(NamedTuple):
    """The output of a self-test, and its exit code."""

    status: int
    said: str


def selftests(
    node: str, questions: Mapping[str, tuple[Path, Path]], folder: Path
) -> dict[str, Answer]:
    """Run self-tests one after the other in one process.

    Args:
        node: The program.
        questions: The folder with the code, and the bundle, by name.
        folder: For the questions and answers.
    """
    asked = {name: [str(code), str(bundle)] for name, (code, bundle) in questions.items()}
    (folder / "many.mjs").write_text(MANY)
    (folder / "ask.json").write_text(json.dumps(asked))
    done = run([node, "many.mjs"], folder)
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "answers.json").read_text())
    return {name: Answer(**answer) for name, answer in found.items()}


class Loop:
    """A process that calls a function of JavaScript for every question."""

    def __init__(self, node: str, folder: Path, answer: str) -> None:
        self.folder = folder
        (folder / "answer.mjs").write_text(answer)
        (folder / "loop.mjs").write_text(LOOP)
        self.process = subprocess.Popen(
            [node, "loop.mjs"],
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, question: dict[str, Any]) -> None:
        """Ask, and wait for the answer, which lies in files.

        Raises:
            ValueError: JavaScript threw an error.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{json.dumps(question)}\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "node has ended"
        error = json.loads(line)
        if error is not None:
            raise ValueError(error)

    def close(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait(60)
        self.process.stdout.close()
