"""Errors whose message is one sentence for whoever runs the stream."""


class StreamError(Exception):
    """The stream cannot start or go on; the message says what to do."""
