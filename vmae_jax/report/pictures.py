"""Pictures of a report: films that play and can be held still, reconstructions, masks."""

import io
from collections.abc import Sequence

import numpy as np
from etils import epath

from vmae_jax import metrics
from vmae_jax.config import Config, ConfigError
from vmae_jax.page import Markup, cut, data_url, join, tag
from vmae_jax.report.run import Run

MAX_PICTURE = 6 << 20  # bytes of one file
MAX_PICTURES = 16 << 20  # of all on a page
_MAX_PIXELS = 1 << 24  # of a frame: more is no film of ours
_EARLIER = 3  # films before the last one
_SLOTS = 8  # temporal slots of a mask
_KINDS = {b"\x89PNG\r\n\x1a\n": "image/png", b"RIFF": "image/webp"}


class Pictures:
    """Makes pictures parts of the page, within bounds, and counts what it left out."""

    def __init__(self):
        self._bytes, self.left_out = 0, 0

    def file(self, path: epath.Path, text: str) -> Markup:
        """A PNG or WebP file of the run's."""
        try:
            too_large = path.stat().length > MAX_PICTURE
            return self(b"" if too_large else path.read_bytes(), text)
        except OSError:  # gone meanwhile, or no file
            return self(b"", text)

    def __call__(self, data: bytes, text: str) -> Markup:
        """A PNG or WebP; one that plays comes with the still picture of its middle frame."""
        kind = next((k for start, k in _KINDS.items() if data.startswith(start)), "")
        if not kind or len(data) > MAX_PICTURE or self._bytes + len(data) > MAX_PICTURES:
            self.left_out += 1
            return tag("div", "picture left out", class_="blank")
        try:
            frames, still = _still(data)
        except Exception:  # decoders raise many things for damaged files
            self.left_out += 1
            return tag("div", "damaged picture", class_="blank")
        self._bytes += len(data)
        if frames == 1:
            return _image(kind, data, text, "picture")
        self._bytes += len(still)
        playing = _image(kind, data, text, "playing")
        return join((playing, _image("image/webp", still, f"{text}, held still", "still")))

    def film(self, frames: np.ndarray, text: str) -> Markup:
        """Frames RGB uint8 [T, height, width, 3] to be played."""
        return self(metrics.webp(frames), text)


def _image(kind: str, data: bytes, text: str, name: str) -> Markup:
    return tag("img", src=data_url(kind, data), alt=cut(text), class_=name, decoding="async")


def _still(data: bytes) -> tuple[int, bytes]:
    """How many frames a picture has, and the one in the middle as WebP."""
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=("PNG", "WEBP")) as image:
        if image.width * image.height > _MAX_PIXELS:
            raise ValueError("too large")
        count = getattr(image, "n_frames", 1)
        if count == 1:
            image.load()
            return 1, b""
        image.seek(count // 2)
        file = io.BytesIO()
        image.save(file, "WEBP", quality=85)
        return count, file.getvalue()


HOLD = tag(
    "p",
    tag("input", type="checkbox", id="hold"),
    tag("label", "Hold pictures still", for_="hold"),
    class_="hold",
)


# ---- Reconstructions ----


def reconstructions(run: Run, pictures: Pictures) -> Markup:
    """The last film and a few before it; sheets where the run left no films."""
    files = run.pictures.get("film", ()) or run.pictures.get("reconstruction", ())
    if not files:
        return Markup("")
    plays = "film" in run.pictures
    (step, path), earlier = files[-1], files[:-1]
    text = f"Step {step:,}. {_how(run)}"
    titles = [tag("span", name) for name in ("original", "masked", "reconstructed")]
    last = tag(
        "figure",
        tag("div", *titles, class_="titles") if plays else "",
        pictures.file(path, f"Reconstructions of {run.name} at step {step:,}"),
        class_="film" if plays else "strip",
    )
    return join((tag("p", text, class_="note"), last, _earlier(run, earlier, plays, pictures)))


def _how(run: Run) -> str:
    ratio = run.setting("mask.encoder_ratio")
    hidden = f"{100 * ratio:.0f} % of the patches were hidden" if isinstance(ratio, float) else ""
    if not hidden:
        return ""
    target = (
        "guessed patches carry the true patch's mean and deviation"
        if run.setting("normalize_target")
        else "guessed patches are as predicted"
    )
    return f"{hidden} ({run.setting('mask.encoder')} masking); {target}."


def _earlier(run: Run, files: Sequence, plays: bool, pictures: Pictures) -> Markup:
    if not files:
        return Markup("")
    places = np.linspace(0, len(files) - 1, min(_EARLIER, len(files))).round().astype(int)
    figures = (
        tag(
            "figure",
            pictures.file(path, f"Reconstructions of {run.name} at step {step:,}"),
            tag("figcaption", f"step {step:,}"),
        )
        for step, path in (files[i] for i in dict.fromkeys(places.tolist()))
    )
    title = "The same clips before"
    if plays:
        return join((tag("h4", title), tag("div", *figures, class_="films")))
    return tag("details", tag("summary", title), tag("div", *figures, class_="strips"))


# ---- Masks ----


def masks(run: Run) -> Markup:
    """One draw of the run's masks: what the encoder sees and what the decoder is asked for."""
    if run.setting("task") != "pretrain":
        return Markup("")
    try:
        config = run.checked_config()
        shown, asked = _drawn(config)
    except (ConfigError, ValueError, OverflowError) as error:
        return tag("p", f"Not drawn: {cut(error)}.", class_="note")
    t, h, w = shown.shape
    shares = {
        "seen": ("the encoder sees", shown),
        "asked": ("the decoder guesses", asked & ~shown),
        "rest": ("left out", ~asked & ~shown),
    }
    legend = tag(
        "ul",
        *(
            tag("li", _cell_key(kind), f"{name} {100 * mask.mean():.3g} %")
            for kind, (name, mask) in shares.items()
            if mask.any()
        ),
        class_="legend",
    )
    slots = (_slot(i, {k: m[i] for k, (_, m) in shares.items()}) for i in range(min(t, _SLOTS)))
    rest = f", the first {_SLOTS} of {t}" * (t > _SLOTS)
    text = (
        f"One draw on the grid of {t} × {h} × {w} tokens{rest}; each square is a slot of "
        f"{config.model.tubelet_size} frames. Every clip and step has its own."
    )
    return join((tag("p", text, class_="note"), legend, tag("div", *slots, class_="slots")))


def _drawn(config: Config) -> tuple[np.ndarray, np.ndarray]:
    """bool [t, h, w] twice: tokens that the encoder sees, and that the decoder decodes."""
    import jax

    from vmae_jax.models import masking

    grid, found = config.model.grid, []
    drawn = masking.draw(jax.random.key(config.seed), 1, grid, config.mask)
    for tokens in (drawn.visible, drawn.decoded):
        mask = np.zeros(config.model.num_tokens, bool)
        mask[np.asarray(tokens[0])] = True
        found.append(mask.reshape(grid))
    return found[0], found[1]


def _slot(number: int, parts: dict[str, np.ndarray]) -> Markup:
    height, width = next(iter(parts.values())).shape
    paths = (
        tag("path", d="".join(f"M{x} {y}h1v1h-1z" for y, x in np.argwhere(mask)), class_=kind)
        for kind, mask in parts.items()
    )
    size = f"0 0 {width} {height}"
    return tag("svg", *paths, viewBox=size, role="img", aria_label=f"masks of slot {number + 1}")


def _cell_key(kind: str) -> Markup:
    square = tag("path", d="M1 1h10v10h-10z", class_=kind)
    return tag("svg", square, viewBox="0 0 12 12", class_="swatch", aria_hidden="true")
