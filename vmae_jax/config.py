"""One truth for every setting: frozen dataclasses, made from the recipe at one boundary.

A recipe (`configs/*.py`) starts from `defaults()`, changes what it needs and returns a ConfigDict;
`from_config_dict` checks names, types and combinations before any work starts. Sizes are in
pixels, frames or tokens; rates are per 256 videos; 0 switches an optional number off.
"""

import dataclasses
import difflib
import re
from collections.abc import Mapping
from typing import Any

import ml_collections


class ConfigError(Exception):
    """A setting that cannot work; the message names the key, its value and what is allowed.

    Not a ValueError: the flag library would turn that into a traceback.
    """


@dataclasses.dataclass(frozen=True)
class Tower:
    """Width, depth, heads and MLP width of a stack of transformer blocks."""

    dim: int
    depth: int
    heads: int
    mlp_dim: int


@dataclasses.dataclass(frozen=True)
class Variant:
    """Patch size in pixels and the two towers of a model size."""

    patch_size: int
    encoder: Tower
    decoder: Tower | None  # None: known as a classifier only


# VideoMAE V2 (arXiv 2303.16727), table of architectures. g has an MLP ratio of 48/11 in both
# towers, rounded down: int(512 * 48 / 11) = 2234.
VARIANTS: Mapping[str, Variant] = {
    "tiny": Variant(8, Tower(192, 4, 3, 768), Tower(96, 2, 3, 384)),
    "S": Variant(16, Tower(384, 12, 6, 1536), Tower(192, 4, 3, 768)),
    "B": Variant(16, Tower(768, 12, 12, 3072), Tower(384, 4, 6, 1536)),
    "L": Variant(16, Tower(1024, 24, 16, 4096), Tower(512, 4, 8, 2048)),
    "H": Variant(16, Tower(1280, 32, 16, 5120), Tower(512, 4, 8, 2048)),
    "g": Variant(14, Tower(1408, 40, 16, 6144), Tower(512, 4, 8, 2234)),
}


def tower_name(tower: Tower) -> str:
    """Tower(192, 4, 3, 768) -> 192x4x3x768, as `model.variant` spells sizes of no variant."""
    return "x".join(str(size) for size in dataclasses.astuple(tower))


def variant_of(name: str) -> Variant:
    """The variant of a name in VARIANTS, or of sizes spelled out as ENCODER or ENCODER+DECODER.

    Each tower is DIMxDEPTHxHEADSxMLP, as in 192x4x3x768+96x2x3x384; the patch has 16 pixels.

    Raises:
      ConfigError: for anything else.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    if not re.fullmatch(r"\d+(x\d+){3}(\+\d+(x\d+){3})?", name):
        raise ConfigError(
            f"config.model.variant = {name!r}: expected one of {', '.join(map(repr, VARIANTS))}, "
            "or sizes DIMxDEPTHxHEADSxMLP, such as '192x4x3x768', or with '+' and the decoder's"
        )
    towers = [Tower(*map(int, part.split("x"))) for part in name.split("+")]
    for tower in towers:
        if 0 in dataclasses.astuple(tower) or tower.dim % tower.heads:
            raise ConfigError(
                f"config.model.variant = {name!r}: expected sizes of at least 1, and a width that "
                f"its heads divide, found {tower_name(tower)}"
            )
    return Variant(16, towers[0], towers[1] if len(towers) > 1 else None)


def _check(ok: bool, key: str, found: Any, expected: str) -> None:
    if not ok:
        raise ConfigError(f"config.{key} = {found!r}: expected {expected}")


def _one_of(key: str, found: str, allowed: Any) -> None:
    _check(found in allowed, key, found, f"one of {', '.join(map(repr, allowed))}")


def _nearest_multiples(value: int, divisor: int) -> str:
    low = value // divisor * divisor
    return " or ".join(str(v) for v in (low, low + divisor) if v > 0)


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    variant: str = "B"
    image_size: int = 224  # pixels, square
    num_frames: int = 16
    tubelet_size: int = 2  # frames per token
    patch_size: int = 0  # pixels per token side; 0 = the variant's own
    # Of activations; parameters, statistics, softmax and loss are float32. auto: by the device.
    # GPUs and TPUs round float32's products, unless JAX_DEFAULT_MATMUL_PRECISION=highest
    dtype: str = "auto"
    remat: str = "none"  # what the backward pass recomputes: none, dots (all but products), full
    attention: str = "auto"  # auto, cudnn or xla: see models/attention.py; changes no result
    positions: str = "sincos"  # of the encoder's tokens: sincos (fixed) or learned
    norm_eps: float = 1e-6  # of every LayerNorm; Hugging Face files may say 1e-12
    head_norm_eps: float = 0.0  # of the one before the head; 0 = norm_eps; transformers has 1e-5
    encoder_norm: bool = True  # after the pre-training encoder; some Hugging Face files have none

    def __post_init__(self):
        variant = variant_of(self.variant)
        _one_of("model.positions", self.positions, ("sincos", "learned"))
        _check(self.norm_eps > 0, "model.norm_eps", self.norm_eps, "more than 0")
        _check(self.head_norm_eps >= 0, "model.head_norm_eps", self.head_norm_eps, "0 or more")
        _one_of("model.dtype", self.dtype, ("auto", "bfloat16", "float32"))
        _one_of("model.remat", self.remat, ("none", "dots", "full"))
        _one_of("model.attention", self.attention, ("auto", "cudnn", "xla"))
        if self.patch_size == 0:
            object.__setattr__(self, "patch_size", variant.patch_size)
        for size, part in (("image_size", "patch_size"), ("num_frames", "tubelet_size")):
            found, divisor = getattr(self, size), getattr(self, part)
            _check(divisor > 0, f"model.{part}", divisor, "a positive number")
            _check(
                found > 0 and found % divisor == 0,
                f"model.{size}",
                found,
                f"a multiple of model.{part} = {divisor}, such as "
                f"{_nearest_multiples(found, divisor)}",
            )

    @property
    def encoder(self) -> Tower:
        return variant_of(self.variant).encoder

    @property
    def decoder(self) -> Tower:
        decoder = variant_of(self.variant).decoder
        if decoder is None:
            raise ConfigError(
                f"config.model.variant = {self.variant!r}: pre-training needs a decoder; add its "
                "sizes, as in '192x4x3x768+96x2x3x384'"
            )
        return decoder

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tokens along time, height and width."""
        side = self.image_size // self.patch_size
        return self.num_frames // self.tubelet_size, side, side

    @property
    def num_tokens(self) -> int:
        t, h, w = self.grid
        return t * h * w

    @property
    def patch_dim(self) -> int:
        """Values in one patch: frames x rows x columns x channels."""
        return self.tubelet_size * self.patch_size**2 * 3


@dataclasses.dataclass(frozen=True)
class MaskConfig:
    encoder: str = "tube"  # tube (same cells in all slots), random, none
    encoder_ratio: float = 0.9  # share of tokens hidden from the encoder
    decoder: str = "running_cell"  # running_cell, random, none (decode every hidden token)
    decoder_ratio: float = 0.5  # share of tokens that are not decoded

    def __post_init__(self):
        _one_of("mask.encoder", self.encoder, ("tube", "random", "none"))
        _one_of("mask.decoder", self.decoder, ("running_cell", "random", "none"))
        for key in ("encoder_ratio", "decoder_ratio"):
            ratio = getattr(self, key)
            _check(0 <= ratio < 1, f"mask.{key}", ratio, "a share in [0, 1)")
        if self.decoder == "running_cell":
            _check(
                self.decoder_ratio in (0.25, 0.5, 0.75),
                "mask.decoder_ratio",
                self.decoder_ratio,
                "0.25, 0.5 or 0.75 with mask.decoder = 'running_cell' (a cell has 4 tokens); "
                "mask.decoder = 'random' takes any ratio",
            )


@dataclasses.dataclass(frozen=True)
class ClassifierConfig:
    """What fine-tuning adds to the encoder, and what of it is trained."""

    num_classes: int = 0  # 0 = as many as the data names
    label_map: str = ""  # JSON list: the row of init_from's head for each class; "" = none
    drop_path: float = 0.1  # of the last block; grows linearly from 0 at the first
    head_dropout: float = 0.0
    init_scale: float = 0.001  # of a fresh head
    label_smoothing: float = 0.1
    train_blocks: int = -1  # last blocks to train, with the norm and the head; -1 = everything
    # Of low-rank updates to attention, all else but norm and head frozen; 0 = off
    lora_rank: int = 0
    lora_alpha: float = 16.0  # the update counts lora_alpha / lora_rank

    def __post_init__(self):
        for key in ("num_classes", "lora_rank", "init_scale"):
            _check(getattr(self, key) >= 0, f"classifier.{key}", getattr(self, key), "0 or more")
        for key in ("drop_path", "head_dropout", "label_smoothing"):
            found = getattr(self, key)
            _check(0 <= found < 1, f"classifier.{key}", found, "a share in [0, 1)")
        _check(self.train_blocks >= -1, "classifier.train_blocks", self.train_blocks, "-1 or more")
        _check(
            self.lora_rank == 0 or self.train_blocks == -1,
            "classifier.train_blocks",
            self.train_blocks,
            "-1 with classifier.lora_rank, which freezes all blocks",
        )


@dataclasses.dataclass(frozen=True)
class AugmentConfig:
    """Augmentation of fine-tuning clips; 0 or "" switches a part off."""

    randaugment: str = "rand-m7-n4-mstd0.5-inc1"  # timm's name; the same for all frames of a view
    min_area: float = 0.08  # of a random resized crop, as a share of the frame
    flip: float = 0.5  # probability; 0 where left and right tell classes apart, as in SSv2
    erase: float = 0.25  # probability of a box of noise, the same box in all frames
    mixup: float = 0.8  # both parameters of the Beta distribution
    cutmix: float = 1.0
    mix_probability: float = 1.0  # of either, for a group
    cutmix_share: float = 0.5  # of the mixed groups, where both are on
    mix_group: int = 0  # clips that share a draw and mix among themselves; 0 = the whole batch

    def __post_init__(self):
        _check(
            not self.randaugment or re.fullmatch(RANDAUGMENT, self.randaugment) is not None,
            "augment.randaugment",
            self.randaugment,
            "such as 'rand-m7-n4-mstd0.5-inc1', or ''",
        )
        for key in ("flip", "erase", "mix_probability", "cutmix_share"):
            found = getattr(self, key)
            _check(0 <= found <= 1, f"augment.{key}", found, "a probability in [0, 1]")
        _check(0 < self.min_area <= 1, "augment.min_area", self.min_area, "a share in (0, 1]")
        for key in ("mixup", "cutmix", "mix_group"):
            _check(getattr(self, key) >= 0, f"augment.{key}", getattr(self, key), "0 or more")


RANDAUGMENT = (
    r"rand-m(?P<magnitude>\d+)-n(?P<layers>\d+)(-mstd(?P<std>\d+(\.\d+)?))?(-inc(?P<inc>[01]))?"
)


@dataclasses.dataclass(frozen=True)
class EvalConfig:
    """Multi-view testing: the softmax of clips x crops views is averaged per video."""

    split: str = "val"
    clips: int = 5  # temporal clips of a video: 5 dense, 2 sparse
    crops: int = 3  # along the longer side
    batch_size: int = 8  # videos per step over all processes
    every: int = 0  # training steps between evaluations of one central view; 0 = never

    def __post_init__(self):
        for key in ("clips", "crops", "batch_size"):
            _check(getattr(self, key) >= 1, f"eval.{key}", getattr(self, key), "at least 1")
        _check(self.every >= 0, "eval.every", self.every, "0 or more")


@dataclasses.dataclass(frozen=True)
class ProbeConfig:
    """Frozen evaluation of an encoder."""

    kind: str = "linear"  # linear, attentive or knn
    neighbors: int = 20  # of knn
    temperature: float = 0.07  # of knn's votes: exp(cosine similarity / temperature)

    def __post_init__(self):
        _one_of("probe.kind", self.kind, ("linear", "attentive", "knn"))
        _check(self.neighbors >= 1, "probe.neighbors", self.neighbors, "at least 1")
        _check(self.temperature > 0, "probe.temperature", self.temperature, "more than 0")


@dataclasses.dataclass(frozen=True)
class DistillConfig:
    """Whom a student imitates, and in what."""

    # A classifier, read as init_from is; random = one that knows nothing, to see a recipe run.
    teacher: str = ""
    weights_key: str = ""  # of the teacher's file, as that of init_from
    variant: str = ""  # the teacher's, as in model.variant; "" = as its file says, which plans read
    temperature: float = 1.0  # of both softmaxes, the teacher's and the student's
    soft_weight: float = 1.0  # of the teacher's targets; labels count the rest, and 1 needs none
    feature_weight: float = 0.0  # on top, of the distance to the teacher's last tokens; 0 = off

    def __post_init__(self):
        _check(self.temperature > 0, "distill.temperature", self.temperature, "more than 0")
        _check(
            0 <= self.soft_weight <= 1, "distill.soft_weight", self.soft_weight, "a share in [0, 1]"
        )
        _check(self.feature_weight >= 0, "distill.feature_weight", self.feature_weight, "0 or more")
        _check(
            self.soft_weight + self.feature_weight > 0, "distill.soft_weight", self.soft_weight,
            "more than 0 without distill.feature_weight: nothing would be learned of the teacher",
        )  # fmt: skip
        if self.variant:
            try:
                variant_of(self.variant)
            except ConfigError as error:
                raise ConfigError(str(error).replace("model.variant", "distill.variant")) from None


@dataclasses.dataclass(frozen=True)
class DataConfig:
    dataset: str = "synthetic"  # a dataset directory (local or any fsspec URL), or 'synthetic'
    split: str = "train"
    batch_size: int = 256  # videos per step over all processes; the views of each come on top
    views: int = 4  # augmented views per decoded clip
    sampling: str = "dense"  # dense (every stride-th frame) or sparse (a frame of each segment)
    stride: int = 4  # frames between two sampled frames, where sampling is dense
    antialias: bool = False  # crops of pre-training that shrink, as in the reference; see `bench`
    threads: int = 0  # decoding threads of each process; 0 = as suits this host's cores
    workers: int = 0  # decoding processes; 0 = in threads of this one, on small hosts at least
    prefetch: int = 4  # batches ready ahead of the step
    max_bad_fraction: float = 0.01  # of the data set's records; more distinct bad ones end the run

    def __post_init__(self):
        _check(
            bool(self.dataset), "data.dataset", self.dataset, "a dataset directory or 'synthetic'"
        )
        _one_of("data.sampling", self.sampling, ("dense", "sparse"))
        for key in ("batch_size", "views", "stride", "prefetch"):
            _check(getattr(self, key) >= 1, f"data.{key}", getattr(self, key), "at least 1")
        for key in ("threads", "workers"):
            _check(getattr(self, key) >= 0, f"data.{key}", getattr(self, key), "0 or more")
        _check(
            0 <= self.max_bad_fraction <= 1,
            "data.max_bad_fraction",
            self.max_bad_fraction,
            "a share in [0, 1]",
        )


@dataclasses.dataclass(frozen=True)
class OptimConfig:
    base_lr: float = 1e-3  # per 256 videos: lr = base_lr * data.batch_size / 256
    min_lr: float = 1e-5  # per 256 videos, at the end of the cosine
    warmup_epochs: float = 20.0  # linear from 0; epochs as those of train
    warmup_steps: int = 0  # in steps instead, where the size of the data set is not known
    layer_decay: float = 1.0  # factor of the learning rate per block, counted from the head down
    weight_decay: float = 0.05  # of kernels only
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    clip_norm: float = 0.0  # global gradient norm; 0 = off
    accumulate: int = 1  # micro-batches per step
    ema_decay: float = 0.0  # of the parameters' moving average; 0 = off

    def __post_init__(self):
        _check(self.accumulate >= 1, "optim.accumulate", self.accumulate, "at least 1")
        _check(self.base_lr > 0, "optim.base_lr", self.base_lr, "more than 0")
        for key in ("min_lr", "warmup_epochs", "warmup_steps", "weight_decay", "clip_norm"):
            _check(getattr(self, key) >= 0, f"optim.{key}", getattr(self, key), "0 or more")
        _check(
            0 < self.layer_decay <= 1, "optim.layer_decay", self.layer_decay, "a factor in (0, 1]"
        )
        for key in ("b1", "b2", "ema_decay"):
            _check(0 <= getattr(self, key) < 1, f"optim.{key}", getattr(self, key), "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    data: int = -1  # copies of the model; -1 = all devices that the other axes leave
    fsdp: int = 1  # shards of parameters and optimizer state, which also split the batch
    tensor: int = 1  # shards of heads and MLP

    def __post_init__(self):
        _check(self.data >= 1 or self.data == -1, "mesh.data", self.data, "-1 or at least 1")
        for key in ("fsdp", "tensor"):
            _check(getattr(self, key) >= 1, f"mesh.{key}", getattr(self, key), "at least 1")


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    epochs: float = 200.0  # of as many steps as the videos fill batches (views are not counted)
    steps: int = 0  # 0 = as many as the epochs need; otherwise epochs is ignored
    log_every: int = 50  # steps
    checkpoint_every: int = 1000  # steps
    keep_checkpoints: int = 2
    picture_every: int = 1000  # steps; 0 = only at the end
    max_skipped: int = 10  # steps in a row with a non-finite loss or gradient before the run stops

    def __post_init__(self):
        _check(self.epochs > 0 or self.steps > 0, "train.epochs", self.epochs, "more than 0")
        _check(self.steps >= 0, "train.steps", self.steps, "0 or more")
        for key in ("log_every", "checkpoint_every", "keep_checkpoints", "max_skipped"):
            _check(getattr(self, key) >= 1, f"train.{key}", getattr(self, key), "at least 1")
        _check(self.picture_every >= 0, "train.picture_every", self.picture_every, "0 or more")


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0
    task: str = "pretrain"  # pretrain, finetune, distill or probe
    mode: str = "train"  # train, or eval: test the workdir's last checkpoint, or init_from
    init_from: str = ""  # weights to start from: a workdir, .pth, .safetensors or model directory
    # Names of the classes of init_from's head, as predict's --labels; "" = those that it holds.
    # Public .pth files hold none.
    init_labels: str = ""
    weights_key: str = ""  # what they lie under in a .pth file, as model_ema; "" = found out
    normalize_target: bool = True  # per patch and channel; False = plain pixels in [0, 1]
    model: ModelConfig = ModelConfig()
    mask: MaskConfig = MaskConfig()
    classifier: ClassifierConfig = ClassifierConfig()
    probe: ProbeConfig = ProbeConfig()
    distill: DistillConfig = DistillConfig()
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    eval: EvalConfig = EvalConfig()
    optim: OptimConfig = OptimConfig()
    mesh: MeshConfig = MeshConfig()
    train: TrainConfig = TrainConfig()

    def __post_init__(self):
        _one_of("task", self.task, ("pretrain", "finetune", "distill", "probe"))
        _one_of("mode", self.mode, ("train", "eval"))
        _check(self.seed >= 0, "seed", self.seed, "0 or more")
        for key in ("init_labels", "weights_key"):
            found = getattr(self, key)
            _check(not found or self.init_from, key, found, "'' without init_from")
        clips = self.data.batch_size * self.data.views
        _check(
            clips % self.optim.accumulate == 0,
            "optim.accumulate",
            self.optim.accumulate,
            f"a divisor of data.batch_size * data.views = {clips}",
        )
        if self.task == "pretrain":
            self._check_pretraining()
        else:
            self._check_classifier()
        depth = self.model.encoder.depth
        _check(
            self.classifier.train_blocks <= depth,
            "classifier.train_blocks",
            self.classifier.train_blocks,
            f"-1 to {depth}, the blocks of {self.model.variant}",
        )

    @property
    def needs_labels(self) -> bool:
        """Whether training reads the videos' labels."""
        if self.task == "distill":
            return self.distill.soft_weight < 1
        return self.task != "pretrain"

    def _check_classifier(self) -> None:
        clips = self.data.batch_size * self.data.views // self.optim.accumulate
        group = self.augment.mix_group
        _check(
            group == 0 or clips % group == 0, "augment.mix_group", group,
            f"0 or a divisor of data.batch_size * data.views / optim.accumulate = {clips}",
        )  # fmt: skip
        tests = self.mode == "eval" or (self.task == "probe" and self.probe.kind == "knn")
        _check(
            bool(self.eval.split) or not tests, "eval.split", self.eval.split,
            "the split to test on",
        )  # fmt: skip
        _check(
            not self.data.antialias, "data.antialias", self.data.antialias,
            f"False with task = {self.task!r}, as in the reference",
        )  # fmt: skip
        _check(
            bool(self.distill.teacher) or self.task != "distill" or self.mode == "eval",
            "distill.teacher", self.distill.teacher,
            "a classifier: a workdir, .pth, .safetensors or model directory",
        )  # fmt: skip

    def _check_pretraining(self) -> None:
        _check(self.mode == "train", "mode", self.mode, "'train' with task = 'pretrain'")
        _check(
            self.data.sampling == "dense", "data.sampling", self.data.sampling,
            "'dense' with task = 'pretrain'",
        )  # fmt: skip
        _check(
            self.optim.layer_decay == 1, "optim.layer_decay", self.optim.layer_decay,
            "1.0 with task = 'pretrain'",
        )  # fmt: skip
        _, h, w = self.model.grid
        if self.mask.decoder == "running_cell" and (h % 2 or w % 2):
            patch = self.model.patch_size
            raise ConfigError(
                f"config.model.image_size = {self.model.image_size}: running-cell masking needs an "
                f"even token grid, found {h}x{w} with patch size {patch}; take "
                f"{_nearest_multiples(self.model.image_size, 2 * patch)}, or "
                "mask.decoder = 'random' or 'none'"
            )


def for_platform(config: Config, platform: str) -> Config:
    """The config with model.dtype decided: bfloat16, but on CPUs, which compute slower in it."""
    if config.model.dtype != "auto":
        return config
    dtype = "float32" if platform == "cpu" else "bfloat16"
    return dataclasses.replace(config, model=dataclasses.replace(config.model, dtype=dtype))


def steps_per_epoch(
    config: Config, num_videos: int, meta: Mapping[str, Any] | None = None
) -> float:
    """Steps of an epoch: its whole batches, as in the reference, but at least one.

    Args:
      meta: of a checkpoint of the run, which keeps what it began with. Where that is not noted,
        its version counted the last, incomplete batch as a fraction.
    """
    if meta is not None:
        return meta.get("steps_per_epoch", num_videos / config.data.batch_size)
    return max(1, num_videos // config.data.batch_size)


def total_steps(config: Config, per_epoch: float) -> int:
    """Steps of the run: train.steps, or those of its epochs of `per_epoch` steps."""
    return config.train.steps or max(1, int(config.train.epochs * per_epoch))


def defaults() -> ml_collections.ConfigDict:
    """Every setting at its default, for a recipe to start from."""
    return ml_collections.ConfigDict(dataclasses.asdict(Config()) | {"model": _model_defaults()})


def _model_defaults() -> dict[str, Any]:
    return {f.name: f.default for f in dataclasses.fields(ModelConfig)}


def smoke(config: ml_collections.ConfigDict) -> ml_collections.ConfigDict:
    """The same recipe in seconds on a CPU: a tiny model of its patch size, synthetic videos."""
    patch = config.model.patch_size or variant_of(config.model.variant).patch_size
    config.model.update(variant="tiny", patch_size=patch, image_size=4 * patch, num_frames=8)
    config.model.dtype = "float32"
    config.data.update(dataset="synthetic", batch_size=8, views=2, threads=2, workers=0)
    config.update(init_from="", init_labels="", weights_key="")
    config.classifier.update(num_classes=0, label_map="", train_blocks=-1)
    config.augment.mix_group = 0
    if config.task == "distill":
        config.distill.update(teacher="random", weights_key="", variant="")
    config.eval.update(clips=2, crops=1, batch_size=4)
    config.optim.warmup_steps = 1
    config.train.update(steps=6, log_every=2, checkpoint_every=3, picture_every=0)
    config.mesh.update(data=-1, fsdp=1, tensor=1)
    return config


def recipe(config: ml_collections.ConfigDict, arg: str) -> ml_collections.ConfigDict:
    """Ends a recipe: applies what follows the colon in --config=FILE.py:smoke."""
    if arg not in ("", "smoke"):
        raise ConfigError(f"recipe argument {arg!r}: expected 'smoke' or nothing")
    return smoke(config) if arg == "smoke" else config


def from_config_dict(config: Mapping[str, Any]) -> Config:
    """Checks a recipe and freezes it.

    Raises:
      ConfigError: for an unknown key, a wrong type or settings that exclude each other.
    """
    if isinstance(config, ml_collections.ConfigDict):
        config = config.to_dict()
    return build(Config, config, prefix="")


def build(cls: type, values: Mapping[str, Any], prefix: str) -> Any:
    """A dataclass of plain values; a ConfigError names what is wrong, as config.PREFIX.KEY."""
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            close = difflib.get_close_matches(key, fields, n=1)
            hint = f"did you mean '{prefix}{close[0]}'? " if close else ""
            raise ConfigError(
                f"config.{prefix}{key}: no such setting; {hint}there are {', '.join(fields)}"
            )
    return cls(
        **{key: _typed(fields[key].type, value, prefix + key) for key, value in values.items()}
    )


def _typed(expected: type, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(expected):
        if not isinstance(value, Mapping):
            raise ConfigError(f"config.{key} = {value!r}: expected a group of settings")
        return build(expected, value, prefix=f"{key}.")
    if expected is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if type(value) is not expected:
        raise ConfigError(
            f"config.{key} = {value!r}: expected {expected.__name__}, found {type(value).__name__}"
        )
    return value


def to_dict(config: Config) -> dict[str, Any]:
    """Plain nested dict, as the checkpoint's meta keeps it."""
    return dataclasses.asdict(config)


def merged(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new`, group by group."""
    result = dict(old)
    for key, value in new.items():
        groups = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if groups else value
    return result


def changes(saved: Mapping[str, Any], config: Config) -> dict[str, tuple]:
    """Settings of `config` that differ from a run's saved ones: {key: (old, new)}.

    A setting that the run's version did not have yet counts as its default.
    """
    return differences(merged(to_dict(Config()), saved), to_dict(config))


def differences(
    old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = ""
) -> dict[str, tuple]:
    """Settings that differ between two `to_dict` results: {key: (old, new)}."""
    found = {}
    for key in {**old, **new}:
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            found |= differences(a, b, f"{prefix}{key}.")
        elif a != b:
            found[prefix + key] = (a, b)
    return found
