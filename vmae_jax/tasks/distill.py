"""Distillation: a student learns to say what a teacher says of the same augmented clips.

VideoMAE V2 distils its ViT-g, fine-tuned on Kinetics-710, into ViT-B and ViT-S that start from what
they were fine-tuned to there (its model zoo says so). Neither its loss nor its code is public
(OpenGVLab/VideoMAEv2, issue 61); that issue points at "A good teacher is patient and consistent"
(arXiv 2106.05237), whose loss (big_vision, configs/proj/distill) is the default here: the KL
divergence at temperature 1 and no labels, the student and the teacher looking at the same crop and
the same mixture. Temperature, its square as a factor, and the share of the labels are those of
arXiv 1503.02531. Features are matched token by token where both models have the same grid, else on
average, by a linear map that is learned where their widths differ (arXiv 1412.6550).
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from vmae_jax import lists
from vmae_jax.config import Config, ConfigError, for_platform
from vmae_jax.data.records import open_dataset
from vmae_jax.models import classifier
from vmae_jax.models.adapt import TO_TEACHER
from vmae_jax.tasks import teacher as teachers
from vmae_jax.tasks.finetune import Finetune


class Distill(Finetune):
    """Fine-tuning whose targets are a teacher's.

    The teacher's arrays are a part of the training step's state, split over the mesh by the same
    rule as the student's, but of no checkpoint, which keeps their fingerprint instead.
    """

    def __init__(
        self,
        config: Config,
        label_names: tuple[str, ...] = (),
        teacher: teachers.Teacher | None = None,
    ):
        """Without a teacher nothing can be learned, but what was learned can be tested."""
        super().__init__(config, label_names)
        if not config.needs_labels:
            self.inputs = ("video",)
        self._teacher, self._projected = teacher, False
        if teacher is None:
            return
        self._check_classes(teacher)
        self.teacher = teacher.params
        self.meta = {**self.meta, "teacher": teacher.fingerprint}
        self.flops_per_clip += classifier.forward_flops(teacher.model, teacher.num_classes)
        if config.distill.feature_weight:
            widths = config.model.encoder.dim, teacher.model.encoder.dim
            self._projected = widths[0] != widths[1]
            tokens = config.model.num_tokens if config.model.grid == teacher.model.grid else 1
            self.flops_per_clip += 6 * tokens * widths[0] * widths[1] * self._projected

    @classmethod
    def from_data(cls, config: Config) -> "Distill":
        """The task of a data set and of the teacher's file.

        Raises:
          ConfigError: as fine-tuning does, where labels count; where the teacher has other classes.
          ConversionError, CheckpointError: where the teacher cannot be read.
        """
        labelled = open_dataset(config.data.dataset, config.data.split).label_names
        if config.needs_labels or (labelled and config.eval.split):
            plain = super().from_data(config)
            teacher = teachers.read(plain.config)
            teacher = teacher.for_classes(plain.label_names, config)
            return cls(plain.config, plain.label_names, teacher)
        if config.eval.split:
            raise ConfigError(
                f"config.eval.split = {config.eval.split!r}: {config.data.dataset} has no labels "
                "to test on; set it to '' to distil without"
            )
        teacher = teachers.read(for_platform(config, jax.default_backend()))
        classes = config.classifier.num_classes or teacher.num_classes
        head = dataclasses.replace(config.classifier, num_classes=classes)
        return cls(dataclasses.replace(config, classifier=head), teacher.label_names, teacher)

    def _check_classes(self, teacher: teachers.Teacher) -> None:
        if teacher.num_classes != self.num_classes:
            names = lists.shown(self.label_names)
            raise ConfigError(
                f"config.distill.teacher = {self.config.distill.teacher!r} tells "
                f"{teacher.num_classes} classes apart, the student {self.num_classes}"
                f"{f' ({names})' if names else ''}; give a teacher of the same "
                "classes, or a copy with the rows of these: vmae_jax.convert --label_map=FILE"
            )

    def init(self, key: jax.Array) -> dict[str, Any]:
        """Fresh parameters; with features of another width, a map of the student's to them."""
        params = super().init(key)
        if self._projected:
            shape = self.config.model.encoder.dim, self._teacher.model.encoder.dim
            kernel = jax.nn.initializers.lecun_normal()(jax.random.fold_in(key, 1), shape)
            params[TO_TEACHER] = {"kernel": kernel}
        return params

    def model(self, params: dict[str, Any]) -> classifier.Classifier:
        own = {k: v for k, v in params.items() if k not in (TO_TEACHER, "teacher")}
        return super().model(own)

    def loss_fn(
        self, params: dict[str, Any], batch: dict[str, jax.Array], key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """The distance to the teacher's targets, and the clips that it is the mean of.

        Args:
          params: the student's, and the teacher's as "teacher".
          batch: video uint8 [B, T, height, width, 3] and, where labels count, label int32 [B].
        """
        settings = self.config.distill
        nothing = jnp.full(len(batch["video"]), -1)
        video, targets, key = self.augmented({"label": nothing, **batch}, key)
        tokens, logits = self._teacher(params["teacher"], video)
        student = self.model(params)
        own_tokens = student.tokens(self.patches(video), key)
        own_logits = student.logits(student.pool(own_tokens), key)
        loss = settings.soft_weight * soft_loss(own_logits, logits, settings.temperature)
        if self.config.needs_labels:
            hard = optax.softmax_cross_entropy(own_logits, targets).mean()
            loss += (1 - settings.soft_weight) * hard
        if settings.feature_weight:
            if self.config.model.grid != self._teacher.model.grid:
                own_tokens, tokens = (x.mean(1, keepdims=True) for x in (own_tokens, tokens))
            if self._projected:
                own_tokens = own_tokens @ params[TO_TEACHER]["kernel"].astype(own_tokens.dtype)
            loss += settings.feature_weight * feature_loss(own_tokens, tokens)
        return loss, jnp.float32(len(video))


def soft_loss(student: jax.Array, teacher: jax.Array, temperature: float) -> jax.Array:
    """Mean KL divergence of the student's softmax from the teacher's; logits f32 [B, C].

    Its gradients shrink with the square of the temperature, which therefore is a factor (arXiv
    1503.02531).
    """
    said, taught = (jax.nn.log_softmax(x / temperature) for x in (student, teacher))
    return temperature**2 * optax.losses.kl_divergence_with_log_targets(said, taught).mean()


def feature_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Mean squared error of tokens [B, N, D], each made to have mean 0 and variance 1.

    It is 2 - 2 x the correlation of the two, whatever the scale of either.
    """
    a, b = (jax.nn.standardize(x.astype(jnp.float32)) for x in (student, teacher))
    return jnp.square(a - b).mean()
