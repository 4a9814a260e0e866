"""A grid of runs that asks one question: what do more, or better, clips bring?

settings.py is what a study says, jobs.py its runs and how they are started, law.py the statistics,
results.py the tables and plot.py the picture; python -m vmae_jax.study runs it.
"""
