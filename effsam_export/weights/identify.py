"""Identify the model of a state dict by its tensor names and shapes.

The first rule that applies decides. Names and shapes of each family are read in its own code; the
repositories and commits are those of `ModelSpec.origin`, and for the others: sam-hq fb181f8, sam2
2b90b9f, sam3 99d02f2, EdgeTAM 9cc44bf, EfficientTAM abcd061, SAM-Adapter 665145d, SAM-Med2D
bfd2b93, MedSAM d71e8a1, nanosam 6536336, AutoSAM 50a6ff4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Set

    from torch import Tensor

    Shapes = Mapping[str, Tensor]

E, P, D = "image_encoder.", "prompt_encoder.", "mask_decoder."
PATCH = f"{E}patch_embed.proj.weight"
STEM = f"{E}patch_embed.seq.0.c.weight"
"""First convolution of TinyViT."""
NO_WAY = "export it with its own project's tools; `effsam list` shows the models that are taken"


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a state dict is.

    Attributes:
        family: Name of the family, such as `EdgeSAM`.
        variant: Size or version within the family; empty if there is one, or it is unknown.
        models: Registered models that take it, the likeliest first.
        unsupported: Why no registered model takes it, as the rest of a sentence ("which ...");
            empty if one may.
        hint: What the user can do about that.
    """

    family: str
    variant: str = ""
    models: tuple[str, ...] = ()
    unsupported: str = ""
    hint: str = ""

    @property
    def title(self) -> str:
        """Family and variant with an article, such as `an EdgeSAM`."""
        article = "an" if self.family.startswith(("E", "HQ", "Au")) else "a"
        return " ".join(part for part in (article, self.family, self.variant) if part)


def identify(state: Shapes, beside: Set[str] = frozenset()) -> Identity | None:
    """Return what a state dict is; None if no rule applies.

    Args:
        state: Tensors by the names from the part of the model on, as `image_encoder.pos_embed`. A
            part without its first component (an encoder alone) is recognised, too.
        beside: Names of further tensors of the file.
    """
    names = {*state, *beside}
    for rule in (*UNSUPPORTED, *SUPPORTED):
        found = rule(state, names)
        if found is not None:
            return found
    return None


def identify_part(state: Shapes) -> tuple[str, Identity | None] | None:
    """Return the part (`image_encoder`) that a state dict is, and of which model, by bare names.

    None if it is not a part of a Segment-Anything model.
    """
    if "iou_token.weight" in state:
        return "mask_decoder", None
    if "pe_layer.positional_encoding_gaussian_matrix" in state:
        return "prompt_encoder", None
    identity = identify({f"{E}{name}": value for name, value in state.items()})
    return None if identity is None else ("image_encoder", identity)


# ---------------------------------------------------------------- models that are not taken


def _sam_3(state: Shapes, names: Set[str]) -> Identity | None:
    marks = ("detector.", "tracker.", "detr_encoder.", "detector_model.", "tracker_model.")
    if any(n.startswith((E, D)) for n in state) or not any(n.startswith(marks) for n in names):
        return None
    return Identity(
        family="SAM 3", unsupported="which is prompted by words and videos", hint=NO_WAY
    )


def _sam_2(state: Shapes, names: Set[str]) -> Identity | None:
    memory = "which segments videos with a memory and has other encoders"
    hub = "vision_encoder.backbone."
    if any(n.startswith((f"{E}trunk.body.", f"{hub}timm_model.")) for n in names):
        return Identity(family="EdgeTAM", unsupported=memory, hint=NO_WAY)
    if f"{E}neck.convs.0.conv_1x1.weight" in names:
        return Identity(family="EfficientTAM", unsupported=memory, hint=NO_WAY)
    marks = ("sam_mask_decoder.", f"{E}trunk.", f"{hub}pos_embed_window", "no_memory_embedding")
    if not any(n.startswith(marks) for n in names):
        return None
    new = any(n.startswith(("no_obj_embed_spatial", "obj_ptr_tpos_proj")) for n in names)
    patch = state.get(f"{E}trunk.patch_embed.proj.weight")
    width = None if patch is None else patch.shape[0]
    blocks = sum(n.startswith(f"{E}trunk.blocks.") and n.endswith(".norm1.weight") for n in names)
    sizes = {96: "Tiny" if blocks <= 12 else "Small", 112: "Base+", 144: "Large"}
    return Identity(
        family="SAM 2.1" if new else "SAM 2",
        variant=sizes.get(width, "") if width else "",
        unsupported=memory,
        hint=NO_WAY,
    )


def _hq_sam(state: Shapes, names: Set[str]) -> Identity | None:
    if f"{D}hf_token.weight" not in names and not any(n.startswith(f"{D}hq_token") for n in names):
        return None
    features = state.get(f"{D}compress_vit_feat.0.weight")
    sizes = {768: "ViT-B", 1024: "ViT-L", 1280: "ViT-H", 160: "Light (TinyViT)"}
    return Identity(
        family="HQ-SAM",
        variant="" if features is None else sizes.get(features.shape[0], ""),
        unsupported="whose decoder has a token of its own and takes features of the encoder's "
        "blocks",
        hint="its other tensors are those of the plain SAM it was trained from; export that one",
    )


def _with_branches(state: Shapes, names: Set[str]) -> Identity | None:
    """Models with branches in the encoder's blocks that cannot be merged into its weights."""
    del state
    if any(n.startswith((f"{E}prompt_generator.", f"{E}embedding_generator")) for n in names):
        return Identity(
            family="SAM-Adapter",
            unsupported="whose encoder takes a Fourier transform of the image in each block",
            hint=NO_WAY,
        )
    if any(".Adapter.channel." in n or ".Adapter.spatial." in n for n in names):
        return Identity(
            family="SAM-Med2D",
            unsupported="whose encoder has adapters that cannot be merged into its weights",
            hint="without adapters (`encoder_adapter` off) it is a SAM ViT-B at 256 pixels",
        )
    if any(".MLP_Adapter." in n or ".Space_Adapter." in n for n in names):
        return Identity(
            family="SAM with adapters",
            unsupported="(finetune-SAM, Medical-SAM-Adapter) which cannot be merged into its "
            "weights, as a GELU lies between their layers",
            hint="fine-tune with LoRA or without adapters, and export that",
        )
    if any(n.startswith(f"{P}text_encoder") for n in names):
        return Identity(
            family="MedSAM",
            variant="with text prompts",
            unsupported="whose prompts are words",
            hint=NO_WAY,
        )
    return None


def _other_sizes(state: Shapes, names: Set[str]) -> Identity | None:
    """TinyViTs whose first convolutions differ from MobileSAM's."""
    stem = state.get(STEM)
    if stem is None:
        return None
    if tuple(stem.shape) == (32, 3, 1, 1):
        return Identity(
            family="LiteMedSAM",
            unsupported="whose encoder does not halve the image first, and takes 256 pixels",
            hint=NO_WAY,
        )
    if stem.shape[0] == 64 and not any(n.startswith(f"{E}patch_embed.seq.2.") for n in names):
        return Identity(
            family="MobileSAM",
            variant="of finetune-SAM at 512 pixels",
            unsupported="whose encoder starts with one convolution instead of two",
            hint=NO_WAY,
        )
    return None


def _without_prompts(state: Shapes, names: Set[str]) -> Identity | None:
    del state
    if "up_1.0.weight" in names and "proj.0.weight" in names:
        return Identity(
            family="NanoSAM",
            unsupported="which is an image encoder of another shape",
            hint="its decoder is MobileSAM's: export `mobile-sam`",
        )
    if any(n.startswith("pe_layer.") for n in names) and any(
        n.startswith((D, "input_block.", "output_hypernetworks_mlps.")) for n in names
    ):
        return Identity(family="AutoSAM", unsupported="which takes no prompts", hint=NO_WAY)
    return None


UNSUPPORTED: tuple[Callable[[Shapes, Set[str]], Identity | None], ...] = (
    _sam_3,
    _sam_2,
    _hq_sam,
    _with_branches,
    _other_sizes,
    _without_prompts,
)

# ---------------------------------------------------------------- models that are taken


def _tiny_vit(state: Shapes, names: Set[str]) -> Identity | None:
    del state
    if f"{E}layers.0.blocks.0.conv1.c.weight" not in names:
        return None
    return Identity(family="MobileSAM", models=("mobile-sam",))


def _repvit(state: Shapes, names: Set[str]) -> Identity | None:
    del state
    if f"{E}features.0.0.c.weight" not in names:
        return None
    if f"{E}fuse_stage2.weight" in names:
        return Identity(family="EdgeSAM", models=("edge-sam", "edge-sam-3x"))
    return Identity(family="RepViT-SAM", models=("repvit-sam",))


def _efficientvit(state: Shapes, names: Set[str]) -> Identity | None:
    """The size, by the depth of the last stage; XL has six stages."""
    del state
    stem = f"{E}backbone.stages"
    if f"{stem}.0.op_list.0.conv.weight" not in names:
        return None
    last = 5 if f"{stem}.5.op_list.0.main.inverted_conv.conv.weight" in names else 4
    depth = 0
    while f"{stem}.{last}.op_list.{depth + 1}.context_module.main.qkv.conv.weight" in names:
        depth += 1
    sizes = {(4, 4): "L0", (4, 6): "L1", (4, 8): "L2", (5, 3): "XL0", (5, 6): "XL1"}
    size = sizes.get((last, depth), "")
    return Identity(
        family="EfficientViT-SAM",
        variant=size,
        models=(f"efficientvit-sam-{size.lower()}",) if size else (),
    )


def _lightening(state: Shapes, names: Set[str]) -> Identity | None:
    del state
    if f"{E}blocks.0.attn.multihead_attn.Wqkv.weight" not in names:
        return None
    return Identity(family="SAM-Lightening", models=("sam-lightening",))


def _efficient_sam(state: Shapes, names: Set[str]) -> Identity | None:
    if f"{P}bbox_top_left_embeddings.weight" not in names or PATCH not in state:
        return None
    size = {192: "Ti", 384: "S"}.get(state[PATCH].shape[0], "")
    models = (f"efficient-sam-{size.lower()}",) if size else ()
    return Identity(family="EfficientSAM", variant=size, models=models)


VITS = {
    # Width and depth -> variant.
    (768, 12): "ViT-B",
    (1024, 24): "ViT-L",
    (1280, 32): "ViT-H",
}
SLIM = {384: "50", 168: "77"}
"""Width of SlimSAM after uniform pruning -> percentage of pruned parameters."""


def _vit(state: Shapes, names: Set[str]) -> Identity | None:
    """SAM and its pruned variants. Global pruning gives each block a width of its own."""
    if f"{E}blocks.0.attn.rel_pos_h" not in names or PATCH not in state:
        return None
    width = state[PATCH].shape[0]
    depth = 0
    while f"{E}blocks.{depth}.attn.rel_pos_h" in names:
        depth += 1
    inner = [state.get(f"{E}blocks.{i}.attn.qkv.weight") for i in range(depth)]
    if any(t is not None and tuple(t.shape) != (3 * width, width) for t in inner):
        return Identity(
            family="SlimSAM",
            variant="(globally pruned)",
            models=("slim-sam-50", "slim-sam-77"),
        )
    if (width, depth) in VITS:
        variant = VITS[width, depth]
        size = variant[-1].lower()
        models = (f"sam-vit-{size}", f"expedit-sam-vit-{size}")
        return Identity(family="SAM", variant=variant, models=models)
    if width in SLIM and depth == 12:
        return Identity(family="SlimSAM", variant=SLIM[width], models=(f"slim-sam-{SLIM[width]}",))
    return Identity(family="SAM", variant=f"with {depth} blocks of width {width}")


def _yolo(state: Shapes, names: Set[str]) -> Identity | None:
    stem = state.get("model.0.conv.weight")
    if stem is None:
        return None
    if "model.22.proto.cv1.conv.weight" not in names:
        return Identity(
            family="YOLO", unsupported="which is no FastSAM: it has no prototypes", hint=NO_WAY
        )
    size = {32: "s", 80: "x"}.get(stem.shape[0], "")
    models = (f"fast-sam-{size}",) if size else ()
    return Identity(family="FastSAM", variant=size, models=models)


SUPPORTED: tuple[Callable[[Shapes, Set[str]], Identity | None], ...] = (
    _tiny_vit,
    _repvit,
    _efficientvit,
    _lightening,
    _efficient_sam,
    _vit,
    _yolo,
)
