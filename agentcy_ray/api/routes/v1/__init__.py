"""The API that clients of OpenAI and Anthropic speak, below ``/v1``.

One way in for both: a request becomes an ``Asked``, an answer comes as pieces from a model or a
governed run, and a ``Writer`` puts those into the vendor's form.
"""
