"""Hostile command lines: for quick tests and for fuzzing.

Each function of `KINDS` takes a random generator and returns the arguments of one command. They
name only files that `world` makes. No command may end in anything but success or one error.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from random import Random

LONG = "n" * 300
PATHS = (
    *("", ".", "..", "/", "//", "folder", "folder/", "file", "file/x", "file/../x", "fifo"),
    *("loop", "dangling", "dangling/x", "/dev/null/x", "/dev/full", "no/such/x", "no/../x"),
    *(LONG, f"no/{LONG}", f"folder/{LONG}", "é" * 130, "x/" * 3000, f"{'n' * 250}.toml"),
    *("a\0b", "\udcff\udcfe", "\ud800", "a\nb", "\x1b[2Jx", "\u202ex", " ", "~", "$HOME", "*"),
    *("-", "--", "folder.toml", "empty.toml", "binary.toml", "file.json", "x.onnx", "x.png"),
)
NUMBERS = (
    *(
        "1_0",
        "\u0663",
        "\uff11",
        "0x10",
        "0b1",
        "1e400",
        "-1e400",
        "nan",
        "inf",
        "-inf",
        "Infinity",
    ),
    *("", " ", "1 0", "+", "-", ".", "1.", ".5", "1e", "1e5", "--1", "1,2", "true", "None", "1j"),
    *("9" * 20, "9" * 5000, "-1", "-0", "0", "1" * 4299, "1.5", "1.0", "\0", "1\0", "\ud800"),
    *("½", "²", "1\u00a0", "0" * 100, "1e-400", "0x1p3", "1/2", "1%", "10**10", "10000000000"),
)
NAMES = (
    *(
        "",
        " ",
        "x",
        "../../x",
        "/etc/passwd",
        ".",
        "..",
        "a/b",
        LONG,
        "é",
        "\0",
        "\udcff",
        "\ud800",
    ),
    *("\x1b[31m", "a\nb", "all", "ALL", "mobile-sam ", "Mobile-SAM", "--", "*", "n" * 5000),
    *("onnx", "python", "fp32", "encoder", "default", "mobile-sam", "../calibration/default"),
)


def world(folder: Path) -> None:
    """Make the files and folders that the command lines name."""
    (folder / "folder").mkdir()
    (folder / "folder.toml").mkdir()
    (folder / "file").write_text("text")
    (folder / "file.json").write_text("[" * 5000)
    (folder / "empty.toml").write_text("")
    (folder / "binary.toml").write_bytes(b"\xff\xfe\x00")
    (folder / "loop").symlink_to("loop")
    (folder / "dangling").symlink_to("nowhere/nothing")
    os.mkfifo(folder / "fifo")


def path_arguments(random: Random) -> list[str]:
    """Put strange paths into arguments and options that take a path."""
    path, other = random.choice(PATHS), random.choice(PATHS)
    plan = ["export", "mobile-sam", "-t", "onnx", "--dry-run"]
    point = ["--point", "1,1"]
    return random.choice(
        [
            ["inspect", path],
            ["inspect", path, "--json"],
            ["diff", path, other],
            ["pack", path, "-o", other],
            ["pack", path],
            ["unpack", path, "-o", other],
            ["unpack", path, "--key", other],
            ["sign", path, "--key", other],
            ["attest", path, other],
            ["code", path, "-l", "python", "-o", other],
            ["code", path, "-l", "python"],
            ["run", path, other, *point],
            ["run", "folder", path, *point, "-o", other],
            ["run", "folder", "x.png", *point, "--masks", path],
            ["run", "folder", "x.png", *point, "--mask-input", path],
            ["run", "folder", "x.png", "--mask-input", path, "--masks", other],
            ["run", "folder", path, other, "--prompts", path],
            ["run", "folder", "x.png", "--prompts", path, "--format", other],
            ["run", "folder", "x.png", *point, "--embedding", path, "--save-embedding", other],
            ["bench", path, other],
            ["bench", "folder", "--image", path],
            ["bench", path, "--html", other],
            ["eval", path, other],
            ["eval", "folder", "--coco", path, "--images", other],
            ["eval", "folder", "--reference", path, "--html", other],
            ["cache", "--cache-dir", path],
            ["cache", "--cache-dir", path, "--json"],
            ["cache", "--cache-dir", path, "--remove-unused", "1"],
            ["build", path, "--plan"],
            ["build", "empty.toml", "--plan", "-o", path, "--junit", other],
            [*plan, "-o", path],
            [*plan, "-o", path, "--parity", other],
            [*plan, "--parity", path],
            [*plan, "--int8", "--calib", path],
            [*plan, "--int8", "--int8-recipe", path],
            [*plan, "--fp16", "--keep-fp32", path],
            ["export", "mobile-sam", "--dry-run", "-t", path],
            ["export", "mobile-sam", "--dry-run", "-t", f"{path}.toml"],
            ["bisect", path, "-t", "onnx", "-o", other, "--parity", path, "--checkpoint", "no.pt"],
            ["lint", "mobile-sam", "-t", path],
        ]
    )


def number_arguments(random: Random) -> list[str]:
    """Put strange numbers into options that take one."""
    number, other = random.choice(NUMBERS), random.choice(NUMBERS)
    plan = ["export", "mobile-sam", "-t", "onnx", "--dry-run"]
    expedit = ["export", "expedit-sam-vit-b", "-t", "onnx", "--dry-run"]
    return random.choice(
        [
            ["cache", "--cache-dir", "folder", "--remove-unused", number],
            ["build", "empty.toml", "--plan", "--jobs", number],
            ["build", "empty.toml", "--plan", "--memory", number],
            ["run", "folder", "x.png", "--everything", "--grid", number],
            ["run", "folder", "x.png", "--everything", "--pred-iou-thresh", number],
            ["run", "folder", "x.png", "--everything", "--crop-n-layers", number],
            ["run", "folder", "x.png", "--everything", "--crop-overlap-ratio", number],
            ["run", "folder", "x.png", "--everything", "--min-mask-region-area", number],
            ["run", "folder", "x.png", "--normalized", "--box", f"0,0,{number},{other}"],
            ["bench", "folder", "--threads", number, "--repeats", other],
            ["bench", "folder", "--warm-up", number],
            ["eval", "folder", "--limit", number, "--seed", other],
            ["run", "folder", "x.png", "--point", "1,1", "--range", f"{number},{other}"],
            [*plan, "--int8", "--num-samples", number],
            [*plan, "--int8", "--budget", number],
            [*plan, "--int8", "--optimize", other],
            [
                *expedit,
                "--set",
                f"location={number}",
            ],
            [
                *expedit,
                "--set",
                f"clusters={number}",
            ],
            [*plan, "--set", f"{other}={number}"],
            ["export", "mobile-sam", "-t", "coreml", "--dry-run", "--option", f"slots={number}"],
            ["export", "mobile-sam", "-t", "tflite", "--dry-run", "--option", f"max_rank={number}"],
            [*plan, "--option", f"{other}={number}"],
            ["bisect", "mobile-sam", "-t", "onnx", "--min-iou", number, "--checkpoint", "no.pt"],
            ["bisect", "mobile-sam", "-t", "onnx", "--mean-iou", number, "--checkpoint", "no.pt"],
        ]
    )


def prompt_arguments(random: Random) -> list[str]:
    """Put strange numbers into points and boxes."""
    some = [random.choice([*NUMBERS, "1", "2", "30"]) for _ in range(random.randint(1, 5))]
    text = random.choice([",", ",", ";", ", ", ",,"]).join(some)
    option = random.choice(["--point", "--box"])
    count = random.choice([1, 1, 1, 2, 1500])
    return ["run", "folder", "x.png", *([option, text] * count)]


def name_arguments(random: Random) -> list[str]:
    """Put strange names where a name of a table is wanted."""
    name, other = random.choice(NAMES), random.choice(NAMES)
    return random.choice(
        [
            ["info", name],
            ["info", name, "--json"],
            ["fetch", f"{name}x", "--cache-dir", "folder"],
            ["export", name, "-t", other, "--dry-run"],
            ["export", "mobile-sam", "-t", name, "--dry-run"],
            ["export", "mobile-sam", "-t", "onnx", "-p", name, "--dry-run"],
            ["export", "mobile-sam", "-t", "onnx", "-c", name, "--dry-run"],
            ["export", "mobile-sam", "-t", "onnx", "--int8", "--calib", name, "--dry-run"],
            ["export", "mobile-sam", "-t", "onnx", "--option", name, "--dry-run"],
            ["export", "mobile-sam", "-t", "onnx", "--set", name, "--dry-run"],
            ["lint", f"{name}x", "-t", other],
            ["lint", "mobile-sam", "-t", f"{name}x", "-p", other],
            ["verify", "folder", "--level", name],
            ["eval", "folder", "--prompts", name],
            ["code", "folder", "-l", name],
            ["code", "folder", "-l", name, "-o", "folder"],
            ["build", "empty.toml", "--plan", "--only", name],
            [name],
            [name, other],
            ["list", name],
            [f"--{name}"],
            ["targets", f"--{name}", other],
        ]
    )


KINDS: dict[str, Callable[[Random], list[str]]] = {
    "paths": path_arguments,
    "numbers": number_arguments,
    "prompts": prompt_arguments,
    "names": name_arguments,
}
"""Kind of argument -> a function that makes one command line with it."""
