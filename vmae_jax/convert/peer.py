"""A classifier as a module of `transformers`, without a file in between."""

from typing import Any

from vmae_jax.convert import save
from vmae_jax.convert.load import Weights
from vmae_jax.convert.rules import ConversionError


def classifier(weights: Weights) -> Any:
    """`VideoMAEForVideoClassification` in evaluation, its norms as exact as ours.

    It maps float pixels [B, T, 3, height, width], normalised, to an output with `logits` [B, C].

    Raises:
      ConversionError: where transformers cannot hold the model, or does not load it.
    """
    import torch
    import transformers

    if weights.kind != "classifier" or weights.model.positions == "learned":
        raise ConversionError(
            "only a classifier with fixed positions is a model of transformers; this is a "
            f"{weights.kind} with {weights.model.positions} ones"
        )
    transformers.logging.disable_progress_bar()
    config = save.transformers_config(weights)
    kind = getattr(transformers, config.pop("architectures")[0])
    tensors = {
        name: torch.from_numpy(tensor.copy())
        for name, tensor in save.named_tensors(weights, "hugging_face").items()
    }
    module, info = kind.from_pretrained(
        None,
        config=transformers.VideoMAEConfig(**config),
        state_dict=tensors,
        attn_implementation="sdpa",
        output_loading_info=True,
    )
    lost = [name for names in info.values() for name in names]
    if lost:
        raise ConversionError(f"transformers {transformers.__version__} does not load {lost[0]}")
    module.fc_norm.eps = weights.model.head_norm_eps or weights.model.norm_eps
    return module.eval()
