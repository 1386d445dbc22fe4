"""What a person running the training can do something about."""


class TrainingError(Exception):
    """Training cannot go on; the message is one sentence that says why and what to do."""
