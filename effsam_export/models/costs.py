"""Parameters and multiply-accumulate operations of every model, counted by `benchmarks/costs.py`.

Stored as data so that `effsam info` does not import torch. A test compares them with the count.
"""

from __future__ import annotations

from effsam_export.spec.model import Cost

COSTS: dict[str, Cost] = {
    "sam-vit-b": Cost(
        parameters=93_735_472, encoder_macs=486_038_667_264, decoder_macs=1_291_287_680
    ),
    "sam-vit-l": Cost(
        parameters=312_342_832, encoder_macs=1_492_840_153_088, decoder_macs=1_291_287_680
    ),
    "sam-vit-h": Cost(
        parameters=641_090_608, encoder_macs=2_980_541_415_424, decoder_macs=1_291_287_680
    ),
    "mobile-sam": Cost(
        parameters=10_130_092, encoder_macs=38_768_295_424, decoder_macs=1_291_287_680
    ),
    "edge-sam": Cost(parameters=9_582_112, encoder_macs=20_018_900_992, decoder_macs=1_291_287_680),
    "edge-sam-3x": Cost(
        parameters=9_582_112, encoder_macs=20_018_900_992, decoder_macs=1_291_287_680
    ),
    "efficient-sam-ti": Cost(
        parameters=10_223_204, encoder_macs=102_273_908_736, decoder_macs=1_841_909_248
    ),
    "efficient-sam-s": Cost(
        parameters=26_413_028, encoder_macs=245_618_442_240, decoder_macs=1_841_909_248
    ),
    "efficientvit-sam-l0": Cost(
        parameters=34_792_784, encoder_macs=34_774_974_464, decoder_macs=1_291_287_680
    ),
    "efficientvit-sam-l1": Cost(
        parameters=47_650_128, encoder_macs=48_980_295_680, decoder_macs=1_291_287_680
    ),
    "efficientvit-sam-l2": Cost(
        parameters=61_328_592, encoder_macs=68_554_326_016, decoder_macs=1_291_287_680
    ),
    "efficientvit-sam-xl0": Cost(
        parameters=116_957_904, encoder_macs=184_804_442_112, decoder_macs=1_291_287_680
    ),
    "efficientvit-sam-xl1": Cost(
        parameters=203_346_128, encoder_macs=321_870_364_672, decoder_macs=1_291_287_680
    ),
    "repvit-sam": Cost(
        parameters=27_223_480, encoder_macs=113_198_443_264, decoder_macs=1_291_287_680
    ),
    "slim-sam-50": Cost(
        parameters=27_961_776, encoder_macs=153_460_457_472, decoder_macs=1_291_287_680
    ),
    "slim-sam-77": Cost(
        parameters=9_723_528, encoder_macs=46_557_115_392, decoder_macs=1_291_287_680
    ),
    "fast-sam-s": Cost(parameters=11_790_483, encoder_macs=51_092_848_640, decoder_macs=0),
    "fast-sam-x": Cost(parameters=72_234_149, encoder_macs=422_571_483_136, decoder_macs=0),
    "expedit-sam-vit-b": Cost(
        parameters=93_735_472, encoder_macs=378_171_985_920, decoder_macs=1_291_287_680
    ),
    "expedit-sam-vit-l": Cost(
        parameters=312_342_832, encoder_macs=998_613_123_072, decoder_macs=1_291_287_680
    ),
    "expedit-sam-vit-h": Cost(
        parameters=641_090_608, encoder_macs=1_905_262_055_424, decoder_macs=1_291_287_680
    ),
    "sam-lightening": Cost(
        parameters=18_155_696, encoder_macs=45_503_158_272, decoder_macs=1_291_287_680
    ),
}
