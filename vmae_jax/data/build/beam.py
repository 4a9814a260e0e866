"""The option --beam_options: where Beam runs, and with what."""

from typing import Any

from vmae_jax.data.build.items import BuildError


def pipeline_options(options: str) -> Any:
    """Beam's PipelineOptions of 'runner=DirectRunner,direct_num_workers=2'.

    Raises:
      BuildError: where Beam is not installed or knows no such option.
    """
    try:
        from apache_beam.options.pipeline_options import PipelineOptions
    except ImportError as error:
        raise BuildError(
            "--beam_options: Beam is not installed; pip install 'vmae_jax[build]', or leave the "
            "option away to build on this machine's cores"
        ) from error
    flags = [f"--{option.strip().lstrip('-')}" for option in options.split(",") if option.strip()]
    parsed = PipelineOptions(flags)
    known = parsed.get_all_options().keys()
    unknown = parsed.get_all_options(retain_unknown_options=True).keys() - known
    if unknown:
        raise BuildError(
            f"--beam_options: {', '.join(sorted(unknown))}: no such Beam option; expected "
            "name=value pairs such as runner=DirectRunner,direct_num_workers=2"
        )
    return parsed


def runner_of(options: Any) -> str:
    """The runner that PipelineOptions name: this process where they name none."""
    from apache_beam.options.pipeline_options import StandardOptions

    return options.view_as(StandardOptions).runner or "DirectRunner"
