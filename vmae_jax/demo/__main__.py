r"""A page on which people drop clips: the five most probable classes, the frames that were used,
where the model looked, and with a pre-trained model what it guesses of hidden patches.

  pip install 'vmae_jax[demo]'

  # a classifier, and beside it the pre-trained model that fills in what is hidden
  python -m vmae_jax.demo --checkpoint=runs/mine --pretrained=runs/pretrained

  # a public file, which does not name its classes
  python -m vmae_jax.demo --checkpoint=vit_b_k400.pth --labels=label_map_k400.txt

  # a pre-trained model alone: no classes, but reconstructions
  python -m vmae_jax.demo --checkpoint=vit_b_hybrid_pt_800e.pth

Then open http://127.0.0.1:7860. Only this machine reaches it, unless --host says otherwise; from
elsewhere, ssh -L 7860:localhost:7860 THE_MACHINE is better, as the page asks for no password. It
works without a network and tells nobody anything. Clips are answered one at a time, others wait.
"""

import dataclasses
import importlib.util
import ipaddress
import socket

from absl import app, flags

from vmae_jax import cli, command, predict
from vmae_jax import model as model_lib
from vmae_jax.convert import load as weights_lib
from vmae_jax.demo import page
from vmae_jax.demo.answers import Answers, Guesses, Limits
from vmae_jax.model import ModelError


def define_flags() -> None:
    cli.define_model_flags()
    cli.define_view_flags()
    cli.define_labels_flag()
    flags.DEFINE_string(
        "pretrained",
        None,
        "A pre-trained checkpoint of any kind, for the reconstructions. [--checkpoint, where it is "
        "one]",
    )
    flags.DEFINE_string("host", "127.0.0.1", "Address to listen on; 0.0.0.0 = all networks.")
    flags.DEFINE_integer(
        "port", 7860, "Port to listen on; 0 = any free one.", lower_bound=0, upper_bound=65535
    )
    flags.DEFINE_float("max_megabytes", 100, "Larger clips are refused.", lower_bound=0.01)
    flags.DEFINE_float("max_seconds", 120, "Longer clips are refused.", lower_bound=0.1)


def load() -> tuple[Answers, Guesses | None]:
    """What --checkpoint and --pretrained can answer."""
    given = flags.FLAGS
    known = ("weights_key", "heads", "num_frames", "image_size")
    weights = weights_lib.load(given.checkpoint, **{name: given[name].value for name in known})
    weights = dataclasses.replace(weights, source=f"{given.checkpoint}: {weights.source}")
    model = model_lib.from_weights(weights, dtype=given.dtype)
    names = predict.class_names(given.labels, model) if model.kind == "classifier" else ()
    pretrained = weights if weights.kind == "pretrain" else None
    if given.pretrained:
        pretrained = weights_lib.load(given.pretrained)
    guesses = Guesses(pretrained, given.dtype) if pretrained else None
    views = model.views(given.clips, given.crops, sampling=given.sampling)
    return Answers(model, names, views), guesses


def listen(host: str, port: int) -> socket.socket:
    """Raises ModelError where the address is not to be had."""
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        reason = (error.strerror or str(error)).partition(" (")[0]
        raise ModelError(
            f"--host={host} --port={port}: cannot be listened on ({reason}); "
            "give another, or --port=0 for any free one"
        ) from None


def main(argv: list[str]) -> None:
    given = flags.FLAGS
    if argv[1:]:
        raise app.UsageError(f"unexpected arguments: {' '.join(argv[1:])}; see --help")
    if not importlib.util.find_spec("gradio"):
        raise ModelError("the demo needs gradio: pip install 'vmae_jax[demo]'")
    cli.prepare()
    where = listen(given.host, given.port)
    answers, guesses = load()
    host, port = where.getsockname()[:2]
    shown = f"[{host}]" if ":" in host else host
    print(f"{answers.model}\n\nhttp://{shown}:{port}  (stop with Ctrl+C)", flush=True)
    if not ipaddress.ip_address(host).is_loopback:
        print("note: anybody who reaches this address can use it; there is no password", flush=True)
    page.serve(answers, guesses, Limits(given.max_megabytes, given.max_seconds), where)


if __name__ == "__main__":
    define_flags()
    command.run(main, cli.ERRORS)
